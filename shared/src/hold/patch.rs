//! `body-patch`: a published change to the body that a held request would have got; RFC 6902.

use bytes::Bytes;
use json_patch::{Patch, PatchOperation, TestOperation};
use serde_json::Value;

/// Levels of nesting that an operation may make, as many as the parser reads: recursion over a
/// document stays within the stack.
const MAX_DEPTH: usize = 128;
/// What one patch may copy and move, in values and bytes of text together: copies of copies double,
/// so this bounds the memory and the time that a patch takes.
const MAX_CARRIED: usize = 1_000_000;

/// The body after the patch: compact JSON with the line end of the body before.
///
/// `None` if the body is no JSON object or array, or if an operation fails.
pub(super) fn apply(patch: &Patch, body: &[u8]) -> Option<Bytes> {
    let mut document: Value = serde_json::from_slice(body).ok()?;
    if !(document.is_object() || document.is_array()) {
        return None;
    }
    let mut carried = 0;
    for operation in patch.iter() {
        if let PatchOperation::Test(test) = operation {
            holds(test, &document).then_some(())?;
            continue;
        }
        carried += bounded(operation, &document)?;
        if carried > MAX_CARRIED {
            return None;
        }
        json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation)).ok()?;
    }
    let mut patched = serde_json::to_vec(&document).ok()?;
    patched.extend_from_slice(line_end(body));
    Some(Bytes::from(patched))
}

fn line_end(body: &[u8]) -> &'static [u8] {
    if body.ends_with(b"\r\n") {
        b"\r\n"
    } else if body.ends_with(b"\n") {
        b"\n"
    } else {
        b""
    }
}

fn holds(test: &TestOperation, document: &Value) -> bool {
    document
        .pointer(test.path.as_str())
        .is_some_and(|found| is_equal(found, &test.value))
}

/// Equality as `test` means it: numbers by their value, however they are written; RFC 6902 §4.6.
fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || left.as_f64() == right.as_f64()
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(name, a)| right.get(name).is_some_and(|b| is_equal(a, b)))
        }
        _ => left == right,
    }
}

/// The weight of what an operation carries from one place of the document to another; `None` if
/// there is nothing at that place, or if the document would become too deep.
fn bounded(operation: &PatchOperation, document: &Value) -> Option<usize> {
    let measure = match operation {
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Some(0),
        // What the publisher sent counts for its depth only: it is there once.
        PatchOperation::Add(add) => Measure {
            weight: 0,
            ..Measure::of(&add.value)
        },
        PatchOperation::Replace(replace) => Measure {
            weight: 0,
            ..Measure::of(&replace.value)
        },
        PatchOperation::Move(change) => Measure::of(document.pointer(change.from.as_str())?),
        PatchOperation::Copy(copy) => Measure::of(document.pointer(copy.from.as_str())?),
    };
    let depth = operation.path().count() + measure.depth;
    (depth <= MAX_DEPTH).then_some(measure.weight)
}

/// How large a value is.
struct Measure {
    /// Values in it, itself included, and bytes of text.
    weight: usize,
    /// Levels of nesting; 1 for an empty object or array.
    depth: usize,
}

impl Measure {
    fn of(value: &Value) -> Self {
        let (weight, parts) = match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                return Self {
                    weight: 1,
                    depth: 0,
                };
            }
            Value::String(text) => {
                return Self {
                    weight: 1 + text.len(),
                    depth: 0,
                };
            }
            Value::Array(list) => (1, Self::sum(list)),
            Value::Object(members) => {
                let names: usize = members.keys().map(String::len).sum();
                (1 + names, Self::sum(members.values()))
            }
        };
        Self {
            weight: weight + parts.weight,
            depth: 1 + parts.depth,
        }
    }

    fn sum<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let nothing = Self {
            weight: 0,
            depth: 0,
        };
        values
            .into_iter()
            .map(Self::of)
            .fold(nothing, |sum, measure| Self {
                weight: sum.weight + measure.weight,
                depth: sum.depth.max(measure.depth),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn patched(body: &str, operations: &str) -> Option<String> {
        let patch: Patch = serde_json::from_str(operations).unwrap();
        let body = apply(&patch, body.as_bytes())?;
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    #[track_caller]
    fn check(body: &str, operations: &str, expected: &str) {
        assert_eq!(patched(body, operations).as_deref(), Some(expected));
    }

    #[track_caller]
    fn check_failure(body: &str, operations: &str) {
        assert_eq!(patched(body, operations), None, "{body} {operations}");
    }

    const REPLACE: &str = r#"[{"op":"replace","path":"/a","value":2}]"#;

    #[test]
    fn every_operation_works() {
        check(
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b","value":[]},{"op":"add","path":"/b/-","value":"x"}]"#,
            r#"{"a":1,"b":["x"]}"#,
        );
        check(
            "[1,2]",
            r#"[{"op":"add","path":"/0","value":null}]"#,
            "[null,1,2]",
        );
        check(
            r#"{"a":1,"b":2}"#,
            r#"[{"op":"remove","path":"/a"}]"#,
            r#"{"b":2}"#,
        );
        check(r#"{"a":1}"#, REPLACE, r#"{"a":2}"#);
        check(
            r#"{"a":{"x":1},"ab":2}"#,
            r#"[{"op":"move","from":"/a","path":"/abc"}]"#,
            r#"{"ab":2,"abc":{"x":1}}"#,
        );
        check(
            r#"{"a":{"x":1}}"#,
            r#"[{"op":"copy","from":"/a/x","path":"/b"}]"#,
            r#"{"a":{"x":1},"b":1}"#,
        );
        check(
            r#"{"a":1}"#,
            r#"[{"op":"test","path":"/a","value":1}]"#,
            r#"{"a":1}"#,
        );
        check(
            r#"{"a/b~c":1}"#,
            r#"[{"op":"remove","path":"/a~1b~0c"}]"#,
            "{}",
        );
        check(
            r#"{"a":1}"#,
            r#"[{"op":"replace","path":"","value":[]}]"#,
            "[]",
        );
        check("[]", "[]", "[]");
    }

    #[test]
    fn the_result_is_compact_and_sorted_with_the_line_end_of_the_body() {
        check(
            "{ \"z\": \"ü\",\n \"a\": 1 }\n",
            REPLACE,
            "{\"a\":2,\"z\":\"ü\"}\n",
        );
        check("{\"a\":1}\r\n", REPLACE, "{\"a\":2}\r\n");
        check("{\"a\":1} \n\n", REPLACE, "{\"a\":2}\n");
        check("{\"a\":1}\r", REPLACE, "{\"a\":2}");
    }

    #[test]
    fn tests_compare_numbers_by_value() {
        for (found, expected) in [
            ("1", "1.0"),
            ("[{\"n\":1e2}]", "[{\"n\":100}]"),
            ("{\"x\":1,\"y\":\"1\"}", "{\"y\":\"1\",\"x\":1}"),
        ] {
            let test = format!(r#"[{{"op":"test","path":"/a","value":{expected}}}]"#);
            assert!(
                patched(&format!(r#"{{"a":{found}}}"#), &test).is_some(),
                "{found}"
            );
        }
        for (found, other) in [
            ("1", "2"),
            ("1", "\"1\""),
            ("1", "1.5"),
            ("[1]", "[1,2]"),
            ("{}", "{\"x\":1}"),
            ("{\"x\":1}", "{\"y\":1}"),
            ("0", "null"),
            ("[]", "{}"),
        ] {
            check_failure(
                &format!(r#"{{"a":{found}}}"#),
                &format!(r#"[{{"op":"test","path":"/a","value":{other}}}]"#),
            );
        }
    }

    #[test]
    fn only_objects_and_arrays_are_patched() {
        for body in ["", "x", "1", "\"a\"", "null", "{\"a\":1", "{\"a\":1}{}"] {
            check_failure(body, "[]");
        }
        assert_eq!(apply(&Patch::default(), b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn an_operation_that_cannot_be_done_fails() {
        for operation in [
            r#"{"op":"remove","path":"/b"}"#,
            r#"{"op":"remove","path":""}"#,
            r#"{"op":"replace","path":"/b","value":1}"#,
            r#"{"op":"add","path":"/b/c","value":1}"#,
            r#"{"op":"add","path":"/a/3","value":1}"#,
            r#"{"op":"add","path":"/a/x","value":1}"#,
            r#"{"op":"add","path":"/a/00","value":1}"#,
            r#"{"op":"remove","path":"/a/-"}"#,
            r#"{"op":"remove","path":"/a/99999999999999999999"}"#,
            r#"{"op":"move","from":"/b","path":"/c"}"#,
            r#"{"op":"move","from":"/a","path":"/a/0"}"#,
            r#"{"op":"move","from":"","path":"/b"}"#,
            r#"{"op":"copy","from":"/b","path":"/c"}"#,
            r#"{"op":"test","path":"/b","value":null}"#,
        ] {
            check_failure(r#"{"a":[1,2]}"#, &format!("[{operation}]"));
        }
        check_failure(
            r#"{"a":1}"#,
            &format!(
                "[{},{}]",
                &REPLACE[1..REPLACE.len() - 1],
                r#"{"op":"remove","path":"/b"}"#
            ),
        );
    }

    #[test]
    fn copies_of_copies_end_before_memory_does() {
        let double = r#"{"op":"copy","from":"","path":"/-"}"#;
        let patch = |times: usize| format!("[{}]", vec![double; times].join(","));
        assert!(patched("[0]", &patch(10)).is_some());
        check_failure("[0]", &patch(60));
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        let nest = |levels: usize| {
            let list: Vec<String> = (0..levels)
                .map(|level| {
                    format!(
                        r#"{{"op":"add","path":"{}","value":[]}}"#,
                        "/0".repeat(level + 1)
                    )
                })
                .collect();
            format!("[{}]", list.join(","))
        };
        assert!(patched("[]", &nest(127)).is_some());
        check_failure("[]", &nest(128));
        let wrap = r#"{"op":"copy","from":"","path":"/0"}"#;
        check_failure("[0]", &format!("[{}]", vec![wrap; 130].join(",")));
    }
}
