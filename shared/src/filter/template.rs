//! Templates: bytes with directives, `%X` and `%(argument)X`, that are replaced one after another.
//!
//! `%%` is a percent sign; inside the parentheses `\c` is `c`. Works byte by byte, so that a cut
//! through a directive makes no difference, and on bytes, because content need not be text.

use bytes::Bytes;

/// The longest argument of a directive, in bytes; bounds what is kept of a body that opens one and
/// never closes it. The reference proxy keeps everything.
const MAX_ARGUMENT: usize = 64 * 1024;

/// Why something is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at position {position}")]
pub struct TemplateError {
    /// What is wrong.
    pub fault: TemplateFault,
    /// Where, in bytes from the beginning of the template, however it was cut.
    pub position: u64,
}

/// What is wrong with a directive. The texts are those of the reference proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateFault {
    /// The template ends behind a percent sign.
    #[error("Expected directive after '%'")]
    LoneMarker,
    /// The template ends behind an argument.
    #[error("Expected directive after ')'")]
    LoneArgument,
    /// An argument does not end, or not within reason.
    #[error("Unterminated field starting")]
    Unterminated,
    /// No such directive; a percent sign that means itself is written twice.
    #[error("Unknown directive '{}'", [*.0].escape_ascii())]
    UnknownDirective(u8),
    /// A name is needed in parentheses.
    #[error("Directive '{}' requires argument", [*.0].escape_ascii())]
    ArgumentMissing(u8),
    /// Nothing has this name.
    #[error("No such variable '{0}'")]
    Undefined(String),
}

/// What directives stand for.
pub(super) trait Vocabulary {
    /// Appends what `directive` stands for. An empty argument is as good as none.
    fn expand(
        &self,
        directive: u8,
        argument: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TemplateFault>;
}

/// `%(name)s`: the value that a function has for the name.
pub(super) struct Names<F>(pub(super) F);

impl<'a, F: Fn(&str) -> Option<&'a str>> Vocabulary for Names<F> {
    fn expand(
        &self,
        directive: u8,
        argument: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TemplateFault> {
        match directive {
            b's' if argument.is_empty() => Err(TemplateFault::ArgumentMissing(directive)),
            b's' => {
                let value = std::str::from_utf8(argument).ok().and_then(&self.0);
                out.extend_from_slice(value.ok_or_else(|| undefined(argument))?.as_bytes());
                Ok(())
            }
            _ => Err(TemplateFault::UnknownDirective(directive)),
        }
    }
}

fn undefined(name: &[u8]) -> TemplateFault {
    TemplateFault::Undefined(String::from_utf8_lossy(name).into_owned())
}

/// Where in a template its reader is.
///
/// ```text
/// Text ── % ──▶ Marker ── ( ──▶ Argument ◀── \c ──▶ Escape
///  ▲              │                │ )
///  └── X or % ────┘                ▼
///  └── X ───────────────────── Directive
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between directives.
    Text,
    /// Behind `%`.
    Marker,
    /// Inside the parentheses.
    Argument,
    /// Behind `\` inside the parentheses.
    Escape,
    /// Behind the parentheses.
    Directive,
}

/// Reads a template in pieces and writes what it makes.
#[derive(Debug)]
pub(super) struct Renderer {
    state: State,
    /// The argument as far as it has come, without its escapes.
    argument: Vec<u8>,
    /// Bytes read.
    position: u64,
    /// Where the last `%` stands.
    marker: u64,
}

impl Renderer {
    pub(super) fn new() -> Self {
        Self {
            state: State::Text,
            argument: Vec::new(),
            position: 0,
            marker: 0,
        }
    }

    /// Appends to `out` what the template makes as far as it is known. After an error there is no
    /// going on.
    pub(super) fn push(
        &mut self,
        mut piece: &[u8],
        vocabulary: &impl Vocabulary,
        out: &mut Vec<u8>,
    ) -> Result<(), TemplateError> {
        loop {
            if self.state == State::Text {
                let (text, marked) = piece.split_at(text_len(piece));
                out.extend_from_slice(text);
                self.position += text.len() as u64;
                piece = marked;
            }
            let Some((&byte, behind)) = piece.split_first() else {
                return Ok(());
            };
            self.state = self.step(byte, vocabulary, out)?;
            self.position += 1;
            piece = behind;
        }
    }

    /// Whether `piece` leaves the renderer as it is and comes out as it went in.
    pub(super) fn is_plain(&self, piece: &[u8]) -> bool {
        self.state == State::Text && text_len(piece) == piece.len()
    }

    /// Counts a piece that [`Self::is_plain`] and that the caller passes on itself.
    pub(super) fn skip(&mut self, piece: &[u8]) {
        self.position += piece.len() as u64;
    }

    /// Ends the template; an error if it ends within a directive.
    pub(super) fn finish(&self) -> Result<(), TemplateError> {
        let (fault, position) = match self.state {
            State::Text => return Ok(()),
            State::Marker => (TemplateFault::LoneMarker, self.marker),
            State::Argument | State::Escape => return Err(self.unterminated()),
            State::Directive => (TemplateFault::LoneArgument, self.position - 1),
        };
        Err(TemplateError { fault, position })
    }

    fn step(
        &mut self,
        byte: u8,
        vocabulary: &impl Vocabulary,
        out: &mut Vec<u8>,
    ) -> Result<State, TemplateError> {
        match (self.state, byte) {
            (State::Text, b'%') => {
                self.argument.clear();
                self.marker = self.position;
                Ok(State::Marker)
            }
            (State::Text, _) | (State::Marker, b'%') => {
                out.push(byte);
                Ok(State::Text)
            }
            (State::Marker, b'(') => Ok(State::Argument),
            (State::Argument, b'\\') => Ok(State::Escape),
            (State::Argument, b')') => Ok(State::Directive),
            (State::Argument | State::Escape, _) if self.argument.len() == MAX_ARGUMENT => {
                Err(self.unterminated())
            }
            (State::Argument | State::Escape, _) => {
                self.argument.push(byte);
                Ok(State::Argument)
            }
            (State::Marker | State::Directive, directive) => vocabulary
                .expand(directive, &self.argument, out)
                .map(|()| State::Text)
                .map_err(|fault| TemplateError {
                    fault,
                    position: self.position,
                }),
        }
    }

    fn unterminated(&self) -> TemplateError {
        TemplateError {
            fault: TemplateFault::Unterminated,
            position: self.marker + 1,
        }
    }
}

/// Bytes before the first `%`.
fn text_len(piece: &[u8]) -> usize {
    piece
        .iter()
        .position(|byte| *byte == b'%')
        .unwrap_or(piece.len())
}

/// What a whole template makes; the template itself if it has no directive.
pub(super) fn render(
    template: Bytes,
    vocabulary: &impl Vocabulary,
) -> Result<Bytes, TemplateError> {
    let mut renderer = Renderer::new();
    if renderer.is_plain(&template) {
        return Ok(template);
    }
    let mut out = Vec::with_capacity(template.len());
    renderer.push(&template, vocabulary, &mut out)?;
    renderer.finish()?;
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rendered(template: &[u8]) -> Result<Bytes, String> {
        let names = Names(|name: &str| match name {
            "name" => Some("Ada"),
            r"a)b\c" => Some("odd"),
            "empty" => Some(""),
            "percent" => Some("%(name)s"),
            "ü" => Some("ä"),
            _ => None,
        });
        render(Bytes::copy_from_slice(template), &names).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(template: &str, expected: &str) {
        assert_eq!(
            rendered(template.as_bytes()).as_deref(),
            Ok(expected.as_bytes())
        );
    }

    #[track_caller]
    fn check_error(template: &[u8], expected: &str) {
        assert_eq!(rendered(template), Err(expected.to_owned()));
    }

    #[test]
    fn directives_are_replaced() {
        check("", "");
        check("no directive", "no directive");
        check("%(name)s", "Ada");
        check("<%(name)s>", "<Ada>");
        check("%(name)s%(name)s", "AdaAda");
        check("[%(empty)s]", "[]");
        check("%(ü)s", "ä");
    }

    #[test]
    fn two_percent_signs_are_one() {
        check("%%", "%");
        check("100%% of %%(name)s", "100% of %(name)s");
        check("%%%(name)s%%", "%Ada%");
    }

    #[test]
    fn a_backslash_protects_inside_the_parentheses_only() {
        check(r"%(a\)b\\c)s", "odd");
        check(r"%(\n\a\m\e)s", "Ada");
        check(r"\%(name)s\)", r"\Ada\)");
    }

    #[test]
    fn an_argument_may_hold_what_means_something_outside() {
        check_error(b"%(a%(b)s", "No such variable 'a%(b' at position 7");
    }

    #[test]
    fn values_are_not_templates() {
        check("%(percent)s", "%(name)s");
    }

    #[test]
    fn content_need_not_be_text() {
        assert_eq!(
            rendered(b"\xff%(name)s\x00\xfe"),
            Ok(Bytes::from_static(b"\xffAda\x00\xfe"))
        );
        check_error(b"%(\xff)s", "No such variable '\u{fffd}' at position 4");
    }

    #[test]
    fn a_template_must_not_end_within_a_directive() {
        check_error(b"%", "Expected directive after '%' at position 0");
        check_error(b"50%", "Expected directive after '%' at position 2");
        check_error(b"%%%", "Expected directive after '%' at position 2");
        check_error(b"a%(", "Unterminated field starting at position 2");
        check_error(b"a%(name", "Unterminated field starting at position 2");
        check_error(br"a%(name\", "Unterminated field starting at position 2");
        check_error(br"a%(name\)s", "Unterminated field starting at position 2");
        check_error(b"%(name)", "Expected directive after ')' at position 6");
    }

    #[test]
    fn unknown_directives_are_errors() {
        check_error(b"%d", "Unknown directive 'd' at position 1");
        check_error(b"50% off", "Unknown directive ' ' at position 3");
        check_error(b"%(name)I", "Unknown directive 'I' at position 7");
        check_error(b"%(name)%", "Unknown directive '%' at position 7");
        check_error(b"%\xff", r"Unknown directive '\xff' at position 1");
    }

    #[test]
    fn names_are_given_and_known() {
        check_error(b"%s", "Directive 's' requires argument at position 1");
        check_error(b"%()s", "Directive 's' requires argument at position 3");
        check_error(b"%(x)s", "No such variable 'x' at position 4");
        check_error(b"%(name )s", "No such variable 'name ' at position 8");
        check_error(
            b"%(name)s%s",
            "Directive 's' requires argument at position 9",
        );
    }

    #[test]
    fn arguments_are_bounded() {
        let longest = format!("%({})s", "x".repeat(MAX_ARGUMENT));
        let error = rendered(longest.as_bytes()).unwrap_err();
        assert!(error.starts_with("No such variable 'xxx"), "{error}");
        let longer = format!("%({})s", "x".repeat(MAX_ARGUMENT + 1));
        check_error(
            longer.as_bytes(),
            "Unterminated field starting at position 1",
        );
    }

    #[test]
    fn content_without_directives_is_not_copied() {
        let content = Bytes::from_static(b"plain");
        let made = render(content.clone(), &Names(|_: &str| None)).unwrap();
        assert_eq!(made.as_ptr(), content.as_ptr());
    }
}
