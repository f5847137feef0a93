//! Logos that need no request: brand icons and initials.

use super::Connector;

/// One brand per line; the first lines describe the format.
const LOGOS: &str = include_str!("logos.tsv");

/// The colours of initials.
const COLOURS: [&str; 8] = [
    "#4f46e5", "#0369a1", "#0f766e", "#15803d", "#a16207", "#c2410c", "#be123c", "#7e22ce",
];

impl Connector {
    /// Returns the brand icon of the connector or its provider as SVG, if there is one.
    pub fn brand_logo(&self) -> Option<String> {
        let provider = self.provider.as_deref().unwrap_or_default();
        let find = |key: &str| {
            let mut lines = LOGOS.lines().filter(|line| !line.starts_with('#'));
            lines.find(|line| line.split('\t').next() == Some(key))
        };
        // A manifest file may use a slug for another provider's connector.
        let is_builtin = self.is_listed && self.account.is_none();
        let line = find(&self.slug)
            .filter(|_| is_builtin)
            .or_else(|| find(provider))?;
        let mut columns = line.split('\t').skip(1);
        let (colour, path) = (columns.next()?, columns.next()?);
        let title = escaped(&self.name);
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-6 -6 36 36\" role=\"img\"><title>{title}</title>\
             <rect x=\"-6\" y=\"-6\" width=\"36\" height=\"36\" rx=\"8\" fill=\"#fff\"/>\
             <path fill=\"#{colour}\" d=\"{path}\"/></svg>"
        ))
    }

    /// Returns the initials of the connector's name as SVG.
    pub fn initials_logo(&self) -> String {
        let words = self.name.split(|c: char| !c.is_alphanumeric());
        let initials = words.filter_map(|word| word.chars().next()).take(2);
        let initials: String = initials.flat_map(char::to_uppercase).collect();
        let index = usize::from(self.id.0.as_bytes()[0]) % COLOURS.len();
        let (title, initials, colour) = (escaped(&self.name), escaped(&initials), COLOURS[index]);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 36 36\" role=\"img\"><title>{title}</title>\
             <rect width=\"36\" height=\"36\" rx=\"8\" fill=\"{colour}\"/>\
             <text x=\"18\" y=\"18\" dy=\"0.35em\" fill=\"#fff\" font-family=\"system-ui, sans-serif\" font-size=\"15\" \
             font-weight=\"600\" text-anchor=\"middle\">{initials}</text></svg>"
        )
    }
}

/// Escapes a text for XML. Omits control characters, which XML does not allow.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use crate::catalog::Catalog;

    #[test]
    fn brand_has_its_icon_and_others_have_initials() {
        let catalog = Catalog::builtin();
        let get = |slug| catalog.get(slug).expect("it is in the catalog");
        assert!(
            get("github")
                .brand_logo()
                .expect("an icon")
                .contains("#181717")
        );
        assert_eq!(get("salesforce").brand_logo(), None);
        assert!(get("monday-com").initials_logo().contains(">MC</text>"));
        let mut hostile = get("github").clone();
        hostile.name = "<script>&\u{0}".to_owned();
        let logo = hostile.brand_logo().expect("an icon") + &hostile.initials_logo();
        assert!(!logo.contains("<script>"));
        assert!(!logo.contains('\u{0}'));
    }
}
