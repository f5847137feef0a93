//! Files named `.env`.
//!
//! One `NAME=value` per line. Values are literal: `$` has no meaning. Quotes around a value are removed; in double
//! quotes, `\"`, `\\`, `\$` and `
//! ` are escape sequences. A `#` after white space starts a comment.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fmt, fs, io};

/// The assignments of a file.
#[derive(Default)]
pub struct EnvFile(BTreeMap<String, Assignment>);

/// The value of one variable.
pub struct Assignment {
    /// The value, without its quotes.
    pub text: String,
    /// The number of the line, from 1.
    pub line: usize,
    /// `true` if the value was in quotes.
    pub is_quoted: bool,
}

/// The errors of a file that cannot be parsed. They do not contain the lines, which may contain secrets.
#[derive(Debug)]
pub struct EnvFileError(Vec<String>);

impl fmt::Display for EnvFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file .env cannot be read:")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for EnvFileError {}

impl EnvFile {
    /// Reads the `.env` of the working directory, or of the nearest directory above it that has one. Without such a
    /// file, returns no assignments.
    ///
    /// # Errors
    /// Lists each line that cannot be parsed.
    pub fn load() -> Result<Self, EnvFileError> {
        let folder = env::current_dir().unwrap_or_default();
        let mut files = folder.ancestors().map(|folder| folder.join(".env"));
        let is_file = |file: &std::path::PathBuf| file.exists() && !file.is_dir();
        match files.find(is_file) {
            Some(file) => Self::read(&file),
            None => Ok(Self::default()),
        }
    }

    fn read(file: &Path) -> Result<Self, EnvFileError> {
        let bytes = fs::read(file).map_err(|error| EnvFileError(vec![error.to_string()]))?;
        Self::parse(&bytes).map_err(EnvFileError)
    }

    /// Parses a file's content.
    ///
    /// # Errors
    /// Lists each line that is not an assignment.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<String>> {
        if bytes.contains(&0) {
            let problem = "it is not UTF-8 but UTF-16, or no text at all: save it as UTF-8";
            return Err(vec![problem.to_owned()]);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            vec![format!(
                "line {line} is not UTF-8 text: save the file as UTF-8"
            )]
        })?;
        let text = text.trim_start_matches('\u{FEFF}');
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut parser = Parser {
            rest: &text,
            line: 1,
            file: Self::default(),
            problems: Vec::new(),
        };
        parser.run();
        if parser.problems.is_empty() {
            Ok(parser.file)
        } else {
            Err(parser.problems)
        }
    }

    /// Returns the assignment of a variable.
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        self.0.get(name)
    }

    /// Removes the assignments of variables that the process has, and adds the others to the process's environment, for
    /// libraries that read it directly.
    ///
    /// # Errors
    /// If dotenvy, which sets them, fails.
    pub fn export(&mut self) -> io::Result<()> {
        self.0.retain(|name, _| env::var_os(name).is_none());
        let escaped = |text: &str| {
            let mut escaped = String::new();
            for c in text.chars() {
                match c {
                    '\n' => escaped.push_str("\\n"),
                    '\\' | '"' | '$' => escaped.extend(['\\', c]),
                    c => escaped.push(c),
                }
            }
            escaped
        };
        let lines = self.0.iter();
        let lines = lines.map(|(name, one)| format!("{name}=\"{}\"\n", escaped(&one.text)));
        let lines: String = lines.collect();
        dotenvy::from_read(lines.as_bytes()).map_err(|_unread| io::ErrorKind::InvalidData.into())
    }
}

/// The quotes that may surround a value.
const QUOTES: [char; 3] = ['"', '\'', '`'];

struct Parser<'a> {
    rest: &'a str,
    /// The number of the line at which `rest` starts.
    line: usize,
    file: EnvFile,
    problems: Vec<String>,
}

/// A value, and the rest of the text after its last line.
type Value<'a> = Result<(String, &'a str), String>;

impl<'a> Parser<'a> {
    fn run(&mut self) {
        while !self.rest.is_empty() {
            let (line, after) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                self.advance(after);
                continue;
            }
            let number = self.line;
            match assignment_name(text) {
                Ok(name) => {
                    let start = self.rest.split_once('=').map_or("", |(_, value)| value);
                    let is_quoted = start.trim_start_matches([' ', '\t']).starts_with(QUOTES);
                    match value(start) {
                        Ok((text, after)) => {
                            let line = number;
                            self.assign(
                                name,
                                Assignment {
                                    text,
                                    line,
                                    is_quoted,
                                },
                            );
                            self.advance(after);
                        }
                        Err(problem) => {
                            self.problems
                                .push(format!("line {number}, {name}: {problem}"));
                            self.advance(after);
                        }
                    }
                }
                Err(problem) => {
                    self.problems.push(format!("line {number} {problem}"));
                    self.advance(after);
                }
            }
        }
    }

    fn advance(&mut self, after: &'a str) {
        let read = &self.rest[..self.rest.len() - after.len()];
        self.line += read.matches('\n').count();
        self.rest = after;
    }

    fn assign(&mut self, name: &str, assignment: Assignment) {
        let line = assignment.line;
        if let Some(before) = self.file.0.insert(name.to_owned(), assignment) {
            self.problems.push(format!(
                "line {line} sets {name}, as line {} does: remove one of them",
                before.line
            ));
        }
    }
}

/// Returns the name that a line assigns to.
///
/// # Errors
/// Says why the line is not `NAME=value`.
fn assignment_name(line: &str) -> Result<&str, &'static str> {
    const YAML: &str =
        "is YAML: write NAME=value, with = in place of the colon and nothing before the name";
    if line.starts_with(['{', '}', '[', ']', '"']) {
        return Err("is JSON: write NAME=value, without braces, commas and quotes around the name");
    }
    if line.starts_with("- ") || line.starts_with("---") {
        return Err(YAML);
    }
    let line = line
        .strip_prefix("export")
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .map_or(line, str::trim_start);
    let (name, has_value) = match line.split_once('=') {
        Some((name, _)) => (name.trim_end(), true),
        None => (line, false),
    };
    let letters = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'.';
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(letters)
            && !text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
    };
    match name.split_once(':') {
        Some((name, _)) if is_name(name.trim_end()) => Err(YAML),
        _ if has_value && is_name(name) => Ok(name),
        _ => Err("is not NAME=value"),
    }
}

/// Parses a value after the equals sign.
fn value(start: &str) -> Value<'_> {
    let text = start.trim_start_matches([' ', '\t']);
    match text.chars().next() {
        Some(quote) if QUOTES.contains(&quote) => quoted(&text[1..], quote),
        _ => {
            let (line, after) = start.split_once('\n').unwrap_or((start, ""));
            Ok((without_comment(line).trim().to_owned(), after))
        }
    }
}

/// Parses a value after its opening quote. It may span several lines.
fn quoted(text: &str, quote: char) -> Value<'_> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        if c == quote {
            let rest = &text[at + 1..];
            let (end, after) = rest.split_once('\n').unwrap_or((rest, ""));
            if end.trim().is_empty() || end.trim().starts_with('#') {
                return Ok((value, after));
            }
            return Err("something follows the closing quote: put the whole value in quotes of the other kind, or in none".to_owned());
        }
        if c != '\\' || quote != '"' {
            value.push(c);
            continue;
        }
        match text[at + 1..].chars().next() {
            Some(escaped @ ('"' | '\\' | '$')) => value.push(escaped),
            Some('n') => value.push('\n'),
            _ => {
                value.push('\\');
                continue;
            }
        }
        characters.next();
    }
    Err(format!(
        "the quote {quote} is not closed: close it, or leave the quotes out"
    ))
}

/// Returns a line up to a `#` that follows white space.
fn without_comment(line: &str) -> &str {
    let starts = line.match_indices('#').map(|(at, _)| at);
    let mut starts = starts.filter(|at| line[..*at].ends_with(char::is_whitespace));
    starts.next().map_or(line, |at| &line[..at])
}
