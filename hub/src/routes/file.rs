//! The routes file: one route a line, in the grammar of Pushpin's.
//!
//! ```text
//! line     = condition 1*( SP target ) [ "#" comment ]
//! section  = value *( "," property )        a condition or a target
//! property = name [ "=" value ]
//! ```
//!
//! Any part may be in double quotes, where `\"` and `\\` stand for `"` and `\`. A section that
//! begins with a property has an empty value. Tabs separate nothing; unquoted ones are mistakes.

use std::fmt;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use super::Routes;
use super::check::{self, Surroundings};
use super::written::{Problem, Property, Section, Written};

/// One mistake in a routes file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Why a routes file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It can, but not be followed.
    #[error("{} has mistakes", path.display())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of the file; at least one.
        mistakes: Vec<Mistake>,
    },
}

/// Reads routes from a text alone: keys in files are refused, and nothing is read but the text.
///
/// # Errors
/// All mistakes, in the order of the text.
pub fn parse(text: &str) -> Result<Routes, Vec<Mistake>> {
    check_text(text, &Surroundings::nothing())
}

impl Routes {
    /// Reads the text of a routes file; `directory` is where relative files are that it names.
    ///
    /// # Errors
    /// All mistakes, in the order of the text.
    pub fn from_text(text: &str, directory: &Path) -> Result<Self, Vec<Mistake>> {
        check_text(text, &Surroundings::directory(directory))
    }

    /// Reads a routes file. Files that it names are relative to its directory.
    ///
    /// # Errors
    /// Why it cannot be read, or all its mistakes.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::from_read(std::fs::read_to_string(path), path)
    }

    /// As [`Self::read`], after the file has been read.
    pub(super) fn from_read(text: io::Result<String>, path: &Path) -> Result<Self, ReadError> {
        let path = path.to_owned();
        let text = match text {
            Ok(text) => text,
            Err(error) => return Err(ReadError::File { path, error }),
        };
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        Self::from_text(&text, directory).map_err(|mistakes| ReadError::Mistakes { path, mistakes })
    }
}

fn check_text(text: &str, surroundings: &Surroundings<'_>) -> Result<Routes, Vec<Mistake>> {
    let mut written = Vec::new();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match Scanner::new(line, index + 1).line() {
            Ok(line) => written.extend(line),
            Err(problem) => problems.push(problem),
        }
    }
    let (routes, more) = check::check(&written, surroundings);
    problems.extend(more);
    if written.is_empty() && problems.is_empty() {
        // A file that is being written is often empty for a moment.
        let text = "the file has no route; give at least one, such as * localhost:8080";
        problems.push(Problem {
            place: Position { line: 1, column: 1 },
            text: text.to_owned(),
        });
    }
    if problems.is_empty() {
        return Ok(Routes::new(routes));
    }
    problems.sort_by_key(|problem| problem.place);
    Err(problems.into_iter().map(Mistake::from).collect())
}

/// A single target, as it is written in a file.
pub(super) fn target(text: &str) -> Result<Section<Position>, Problem<Position>> {
    let mut scanner = Scanner::new(text, 1);
    let place = scanner.place;
    match scanner.sections()?.as_slice() {
        [target] => Ok(target.clone()),
        _ => Err(Problem {
            place,
            text: format!("{text:?} is not one target; give each a text of its own"),
        }),
    }
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    line: usize,
    column: usize,
}

/// A line on the way from characters to sections.
struct Scanner<'a> {
    rest: Peekable<Chars<'a>>,
    place: Position,
}

/// What stands between separators, without its quotes.
struct Item {
    place: Position,
    text: String,
}

impl<'a> Scanner<'a> {
    fn new(line: &'a str, number: usize) -> Self {
        Self {
            rest: line.chars().peekable(),
            place: Position {
                line: number,
                column: 1,
            },
        }
    }

    /// `None` if nothing stands there but a comment.
    fn line(&mut self) -> Result<Option<Written<Position>>, Problem<Position>> {
        let mut sections = self.sections()?.into_iter();
        Ok(sections.next().map(|condition| Written {
            condition,
            targets: sections.collect(),
        }))
    }

    fn sections(&mut self) -> Result<Vec<Section<Position>>, Problem<Position>> {
        let mut sections = Vec::new();
        loop {
            while self.rest.peek() == Some(&' ') {
                self.next();
            }
            match self.rest.peek() {
                None | Some('#') => return Ok(sections),
                Some(_) => sections.push(self.section()?),
            }
        }
    }

    fn section(&mut self) -> Result<Section<Position>, Problem<Position>> {
        let first = self.item()?;
        let mut section = Section {
            place: first.place,
            value: String::new(),
            properties: Vec::new(),
        };
        if first.text.contains('=') {
            section.properties.push(property(&first)?);
        } else {
            section.value = first.text;
        }
        while self.rest.peek() == Some(&',') {
            self.next();
            section.properties.push(property(&self.item()?)?);
        }
        Ok(section)
    }

    /// Up to a comma, a space, a comment or the end.
    fn item(&mut self) -> Result<Item, Problem<Position>> {
        let mut item = Item {
            place: self.place,
            text: String::new(),
        };
        while let Some(next) = self.rest.peek() {
            match next {
                ',' | ' ' | '#' => break,
                '"' => self.quoted(&mut item.text)?,
                '\t' => return Err(problem(self.place, "a tab does not separate; give a space")),
                _ => item.text.extend(self.next()),
            }
        }
        Ok(item)
    }

    fn quoted(&mut self, text: &mut String) -> Result<(), Problem<Position>> {
        let opened = self.place;
        self.next();
        loop {
            let place = self.place;
            match self.next() {
                None => {
                    return Err(problem(
                        opened,
                        "the quotes are not closed; give \" at the end",
                    ));
                }
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some(escaped @ ('"' | '\\')) => text.push(escaped),
                    _ => return Err(problem(place, "\\ escapes nothing; give \\\" or \\\\")),
                },
                Some(plain) => text.push(plain),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        self.place.column += 1;
        Some(next)
    }
}

fn property(item: &Item) -> Result<Property<Position>, Problem<Position>> {
    let (name, value) = match item.text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (item.text.as_str(), None),
    };
    if name.is_empty() {
        let text = "a property has no name; give NAME or NAME=VALUE";
        return Err(problem(item.place, text));
    }
    Ok(Property {
        place: item.place,
        name: name.to_owned(),
        value,
    })
}

fn problem(place: Position, text: &str) -> Problem<Position> {
    Problem {
        place,
        text: text.to_owned(),
    }
}

impl From<Problem<Position>> for Mistake {
    fn from(problem: Problem<Position>) -> Self {
        Self {
            line: problem.place.line,
            column: problem.place.column,
            problem: problem.text,
        }
    }
}

/// `LINE:COLUMN: PROBLEM`.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.problem)
    }
}

/// As one names a route by it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line's sections, each as its value and properties.
    fn sections(line: &str) -> Result<Vec<String>, Mistake> {
        let sections = Scanner::new(line, 1).sections().map_err(Mistake::from)?;
        let show_property = |property: &Property<Position>| match &property.value {
            Some(value) => format!("|{}={value}", property.name),
            None => format!("|{}", property.name),
        };
        let show = |section: &Section<Position>| {
            let properties = section.properties.iter().map(show_property);
            section.value.clone() + &properties.collect::<String>()
        };
        Ok(sections.iter().map(show).collect())
    }

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        assert_eq!(sections(line).unwrap(), expected, "{line}");
    }

    #[track_caller]
    fn check_mistake(line: &str, expected: &str) {
        assert_eq!(sections(line).unwrap_err().to_string(), expected, "{line}");
    }

    #[test]
    fn spaces_separate_sections() {
        check("apple", &["apple"]);
        check("apple banana", &["apple", "banana"]);
        check("  apple   banana  ", &["apple", "banana"]);
        check("", &[]);
        check("   ", &[]);
    }

    #[test]
    fn comments_begin_anywhere_but_in_quotes() {
        check("# apple", &[]);
        check("  # apple", &[]);
        check("apple # banana", &["apple"]);
        check("apple#banana", &["apple"]);
        check("apple,ripe=very#banana", &["apple|ripe=very"]);
        check("apple#\"", &["apple"]);
        check("\"apple#1\"", &["apple#1"]);
    }

    #[test]
    fn commas_separate_properties() {
        check("apple,ripe", &["apple|ripe"]);
        check("apple,ripe,type=gala", &["apple|ripe|type=gala"]);
        check("apple,type=", &["apple|type="]);
        check("apple,a=b=c", &["apple|a=b=c"]);
        check("apple,ripe banana", &["apple|ripe", "banana"]);
    }

    #[test]
    fn a_section_may_begin_with_a_property() {
        check("type=gala", &["|type=gala"]);
        check("type=gala,ripe", &["|type=gala|ripe"]);
        check(",ripe", &["|ripe"]);
        check("apple type=bing", &["apple", "|type=bing"]);
        check("  type=gala", &["|type=gala"]);
    }

    #[test]
    fn quotes_keep_what_would_separate() {
        check("\"apple pie\"", &["apple pie"]);
        check("ap\"ple, \"pie", &["apple, pie"]);
        check(r#"a,b="c, \"d\" \\e""#, &[r#"a|b=c, "d" \e"#]);
        check("\"\"", &[""]);
        check("\"a=b\"", &["|a=b"]);
        check("\"a\tb\"", &["a\tb"]);
        check("ä \"ö\"", &["ä", "ö"]);
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        const TEXTS: [&str; 8] = ["a", "x y", "é,", "#", "\"", "\\", "\t", "\\\"\\"];
        let quoted = |text: &str| {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{escaped}\"")
        };
        for first in TEXTS {
            for second in TEXTS {
                let both = format!("{first}{second}");
                let (line, property) = (quoted(&both), format!("n={both}"));
                check(&line, &[&both]);
                check(
                    &format!("{line} {line},{},{line}", quoted(&property)),
                    &[&both, &format!("{both}|{property}|{both}")],
                );
                check(&format!("{}{}", quoted(first), quoted(second)), &[&both]);
            }
        }
    }

    #[test]
    fn mistakes_of_the_grammar_say_where_they_are() {
        check_mistake(
            "a \"b",
            "1:3: the quotes are not closed; give \" at the end",
        );
        check_mistake(
            "äö,x=\"b c",
            "1:6: the quotes are not closed; give \" at the end",
        );
        check_mistake(r#"a "b\n""#, r#"1:5: \ escapes nothing; give \" or \\"#);
        check_mistake(r#"a "b\"#, r#"1:5: \ escapes nothing; give \" or \\"#);
        check_mistake("a,", "1:3: a property has no name; give NAME or NAME=VALUE");
        check_mistake(
            "a,,b",
            "1:3: a property has no name; give NAME or NAME=VALUE",
        );
        check_mistake(
            "a,=b",
            "1:3: a property has no name; give NAME or NAME=VALUE",
        );
        check_mistake("=b", "1:1: a property has no name; give NAME or NAME=VALUE");
        check_mistake("a\tb", "1:2: a tab does not separate; give a space");
    }

    #[test]
    fn sections_and_properties_know_their_places() {
        let sections = Scanner::new(" ä b,c,\"d\" e", 7).sections().unwrap();
        let columns: Vec<usize> = sections.iter().map(|it| it.place.column).collect();
        assert_eq!(columns, [2, 4, 12]);
        let properties = &sections[1].properties;
        let columns: Vec<usize> = properties.iter().map(|it| it.place.column).collect();
        assert_eq!(columns, [6, 8]);
        assert_eq!(properties[0].place.line, 7);
    }

    #[test]
    fn files_are_read_with_what_is_beside_them() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "00ff").unwrap();
        let path = directory.path().join("routes");
        std::fs::write(
            &path,
            "*,sig_key=file:key a:1,ssl,client_cert=/c,client_key=k",
        )
        .unwrap();
        let routes = Routes::read(&path).unwrap();
        let [route] = routes.all() else {
            panic!("{routes:?}");
        };
        assert!(route.sig_key.is_some());
        let tls = route.targets[0].tls.as_ref().unwrap();
        let client = tls.client.as_ref().unwrap();
        assert_eq!(client.certificate, Path::new("/c"));
        assert_eq!(client.key, directory.path().join("k"));
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        let error = Routes::read(Path::new("/nowhere")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot read /nowhere: "), "{text}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes");
        std::fs::write(&path, [b'*', b' ', 0xff]).unwrap();
        assert!(matches!(Routes::read(&path), Err(ReadError::File { .. })));
        std::fs::write(&path, "*").unwrap();
        assert!(matches!(
            Routes::read(&path),
            Err(ReadError::Mistakes { .. })
        ));
    }
}
