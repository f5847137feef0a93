//! Sanitizes text of other parties that people read: account names, labels, errors.
//!
//! Such text is displayed within the product's own sentences. It must not reorder or cover them.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// The maximum number of consecutive combining marks that are kept. No language needs more on one letter.
const MAX_MARKS: u32 = 4;

/// Returns `true` if a character changes the direction of the text around it (Unicode's `Bidi_Control`).
pub(crate) fn is_bidi_control(c: char) -> bool {
    matches!(
        c,
        '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
    )
}

/// How a character is displayed.
enum Verdict {
    Keep,
    /// As a space, because it ends a line or is another control character.
    Space,
    Remove,
}

/// Classifies the characters of one text, in order.
#[derive(Default)]
struct Judge {
    marks: u32,
}

impl Judge {
    fn judge(&mut self, c: char) -> Verdict {
        if is_bidi_control(c) {
            return Verdict::Remove;
        }
        match CodePointMapData::<GeneralCategory>::new().get(c) {
            GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark => {
                self.marks += 1;
                if self.marks > MAX_MARKS {
                    return Verdict::Remove;
                }
            }
            // An invisible character does not reset the count of consecutive marks.
            GeneralCategory::Format => {}
            GeneralCategory::Control
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator => {
                self.marks = 0;
                return Verdict::Space;
            }
            _ => self.marks = 0,
        }
        Verdict::Keep
    }
}

/// Returns the displayable characters of a text: on one line, without characters that change the direction, and without
/// excess combining marks.
pub(crate) fn displayable(text: &str) -> impl Iterator<Item = char> {
    let mut judge = Judge::default();
    text.chars().filter_map(move |c| match judge.judge(c) {
        Verdict::Keep => Some(c),
        Verdict::Space => Some(' '),
        Verdict::Remove => None,
    })
}

/// Returns `true` if a text has a character that shows something. White space and Unicode's
/// `Default_Ignorable_Code_Point` show nothing, and neither does the blank Braille pattern.
pub(crate) fn is_visible(text: &str) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let is_blank = |c: char| c.is_whitespace() || c == '\u{2800}' || ignorable.contains(c);
    !text.chars().all(is_blank)
}

/// Returns a displayable id. Characters that [`displayable`] would change are escaped, so that different ids stay
/// different.
pub(crate) fn displayable_id(id: &str) -> String {
    let mut judge = Judge::default();
    let mut shown = String::with_capacity(id.len());
    for c in id.chars() {
        match judge.judge(c) {
            Verdict::Keep => shown.push(c),
            Verdict::Space | Verdict::Remove => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        displayable(text).collect()
    }

    #[test]
    fn displayable_text_has_no_direction_of_its_own() {
        let controls = "\u{61C}\u{200E}\u{200F}\u{202A}\u{202B}\u{202C}\u{202D}\u{202E}\u{2066}\u{2067}\u{2068}\u{2069}";
        assert_eq!(shown(&format!("a{controls}b")), "ab");
        assert_eq!(shown("שלום, علي"), "שלום, علي");
    }

    #[test]
    fn displayable_text_has_few_marks_in_a_row() {
        let many = |mark: &str| format!("e{}", mark.repeat(50));
        assert_eq!(shown(&many("\u{301}")), format!("e{}", "\u{301}".repeat(4)));
        assert_eq!(shown(&many("\u{20DD}")).chars().count(), 5);
        // Invisible characters between the marks do not reset the count.
        let between = many("\u{301}\u{200D}\u{202E}");
        assert_eq!(shown(&between).matches('\u{301}').count(), 4);
        for name in [
            "Zoë",
            "Nguye\u{302}\u{303}n",
            "שָׁלוֹם",
            "👩\u{200D}👩\u{200D}👧",
            "กำลัง",
        ] {
            assert_eq!(shown(name), name);
        }
    }

    #[test]
    fn displayable_text_is_one_line() {
        assert_eq!(shown("a\nb\u{2028}c\u{2029}d\u{85}e\0f"), "a b c d e f");
    }

    #[test]
    fn ids_that_differ_are_shown_differently() {
        let ids = ["bob", "b\u{202E}ob", "bob\n", "bob\0", "bob\u{200F}"];
        let shown: std::collections::BTreeSet<String> =
            ids.iter().map(|id| displayable_id(id)).collect();
        assert_eq!(shown.len(), ids.len());
        assert!(shown.iter().all(|id| !id.chars().any(is_bidi_control)));
        assert_eq!(displayable_id("b\u{202E}ob"), "b\\u{202e}ob");
    }
}
