//! Routes as a whole: every property, every mistake, and any text.

use std::path::Path;

use super::*;

/// The only route of a text.
#[track_caller]
fn only_route(text: &str) -> Arc<Route> {
    let routes = parse(text).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
    let [route] = routes.all() else {
        panic!("{text} is {} routes", routes.all().len());
    };
    Arc::clone(route)
}

/// A line means something that a plain one does not mean.
#[track_caller]
fn check(line: &str, expected: &str) {
    let plain = format!("{:?}", only_route("* a:1"));
    assert!(!plain.contains(expected), "plain routes have {expected}");
    let found = format!("{:?}", only_route(line));
    assert!(found.contains(expected), "{found}\nlacks\n{expected}");
}

#[track_caller]
fn check_mistakes(text: &str, expected: &[&str]) {
    let mistakes = parse(text).expect_err(text);
    let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(mistakes, expected, "{text}");
}

#[test]
fn conditions_are_read() {
    check("example.com a:1", "host: Exact(\"example.com\")");
    check("Example.COM a:1", "host: Exact(\"example.com\")");
    check("[::1] a:1", "host: Exact(\"[::1]\")");
    check("id=x a:1", "host: ById");
    check(",id=x a:1", "host: ById");
    check("*,proto=http a:1", "protocol: Some(Http)");
    check("*,proto=ws a:1", "protocol: Some(WebSocket)");
    check("*,ssl=yes a:1", "security: Some(Tls)");
    check("*,ssl=no a:1", "security: Some(Plain)");
    check("*,path_beg=/a%20b a:1", "path_beg: Some(\"/a%20b\")");
    check("path_beg=/a,id=x a:1", "path_beg: Some(\"/a\")");
}

#[test]
fn properties_of_routes_are_read() {
    check("*,id=x a:1", "id: \"x\", has_explicit_id: true");
    check("*,sig_iss=x a:1", "sig_iss: Some(\"x\")");
    check("*,sig_key=x a:1", "sig_key: Some(SigningKey(HS256))");
    check(
        "*,sig_key=base64:AAH/ a:1",
        "sig_key: Some(SigningKey(HS256))",
    );
    check("*,prefix=x- a:1", "prefix: \"x-\"");
    check("*,as_host=b a:1", "as_host: Some(b)");
    check("*,as_host=b:2 a:1", "as_host: Some(b:2)");
    check("*,path_rem=3 a:1", "path_rem: 3");
    check("*,replace_beg=/b a:1", "replace_beg: Some(\"/b\")");
    check("*,path_beg=/a,replace_beg= a:1", "replace_beg: Some(\"\")");
    check("*,header=X:y a:1", "headers: [(\"x\", Some(\"y\"))]");
    check(
        "*,header=\"X: y: z\" a:1",
        "headers: [(\"x\", Some(\"y: z\"))]",
    );
    check(
        "*,header=X:,header=Y:z a:1",
        "headers: [(\"x\", None), (\"y\", Some(\"z\"))]",
    );
    check("*,orig_headers a:1", "orig_headers: Copy");
    check("*,debug a:1", "debug: On");
    check("*,aco a:1", "cross_origin: On");
    check("*,jsonp_mode=basic a:1", "mode: Basic");
    check("*,jsonp_cb=x a:1", "callback: \"x\"");
    check("*,jsonp_body=x a:1", "body: Some(\"x\")");
    check("*,jsonp_defcb=x a:1", "default_callback: Some(\"x\")");
    check("*,jsonp_defmethod=PUT a:1", "default_method: Some(PUT)");
    check("*,compression a:1", "compression: On");
    check("*,sse_resume a:1", "sse_resume: On");
    check("*,slow=latest-only a:1", "slow: Some(LatestOnly)");
    check("*,no_grip a:1", "grip: Off");
    check("*,log_level=0 a:1", "log_level: Some(0)");
}

#[test]
fn targets_are_read() {
    check("* localhost:80", "Http { host: \"localhost\", port: 80 }");
    check("* my_app:65535", "Http { host: \"my_app\", port: 65535 }");
    check("* [::1]:80", "Http { host: \"::1\", port: 80 }");
    check("* test", "kind: Test");
    check("* a:1,host=b", "host: Some(b)");
    check("* a:1,host=b:2", "host: Some(b:2)");
    check("* a:1,ssl", "tls: Some(TlsRules { verify: RequestHost");
    check("* a:1,ssl,trust_connect_host", "verify: ConnectHost");
    check("* a:1,ssl,insecure", "verify: Nothing");
    check("* a:1,ssl,insecure,trust_connect_host", "verify: Nothing");
    check(
        "* a:1,ssl,client_cert=c,client_key=k",
        "client: Some(ClientCertificate { certificate: \"c\", key: \"k\" })",
    );
    check("* a:1,untrusted", "addresses: Public");
    check("* a:1,over_http", "websocket: OverHttp(All)");
    check("* a:1,over_http,one_event", "websocket: OverHttp(One)");
    check("* a:1,sub=x,sub=y", "subscribe: [\"x\", \"y\"]");
}

#[test]
fn targets_keep_their_order_and_show_as_they_were_written() {
    let route = only_route("* b:2 a:1,ssl [::1]:3 test");
    let shown: Vec<String> = route.targets.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["b:2", "a:1", "[::1]:3", "test"]);
}

#[test]
fn conditions_that_cannot_be_met_are_mistakes() {
    let no_path = "give a path that begins with / and has no query";
    let no_host = "give a name without port, or * for any host";
    for (text, problem) in [
        ("a:80 b:1", format!("1:1: \"a:80\" is no host; {no_host}")),
        ("*.a b:1", format!("1:1: \"*.a\" is no host; {no_host}")),
        ("u@a b:1", format!("1:1: \"u@a\" is no host; {no_host}")),
        ("\"a b\" b:1", format!("1:1: \"a b\" is no host; {no_host}")),
        (
            "*,proto=x b:1",
            "1:3: \"x\" is no proto; give http or ws".to_owned(),
        ),
        (
            "*,ssl=x b:1",
            "1:3: \"x\" is no ssl; give yes or no".to_owned(),
        ),
        (
            "*,path_beg=x b:1",
            format!("1:3: \"x\" is no path_beg; {no_path}"),
        ),
        (
            "*,path_beg= b:1",
            format!("1:3: \"\" is no path_beg; {no_path}"),
        ),
        (
            "*,path_beg=* b:1",
            format!("1:3: \"*\" is no path_beg; {no_path}"),
        ),
        (
            "*,path_beg=/a?b b:1",
            format!("1:3: \"/a?b\" is no path_beg; {no_path}"),
        ),
        (
            "*,path_beg=\"/a#\" b:1",
            format!("1:3: \"/a#\" is no path_beg; {no_path}"),
        ),
        (
            ",debug b:1",
            "1:1: no request would take this route; give a host, * for any host, or id=NAME"
                .to_owned(),
        ),
    ] {
        check_mistakes(text, &[&problem]);
    }
}

#[test]
fn values_that_are_wrong_are_mistakes() {
    let no_path = "give a path that begins with / and has no query";
    let no_level = "give 0 (errors) to 3 (debug)";
    for (property, problem) in [
        ("id=", "\"\" is no id; give a name"),
        ("sig_iss=", "\"\" is no sig_iss; give a name"),
        (
            "sig_key=",
            "the key is empty; give a text, base64:... or file:PATH",
        ),
        ("as_host=", "\"\" is no as_host; give HOST or HOST:PORT"),
        (
            "as_host=a:0",
            "\"a:0\" is no as_host; give HOST or HOST:PORT",
        ),
        (
            "as_host=a:x",
            "\"a:x\" is no as_host; give HOST or HOST:PORT",
        ),
        ("as_host=a:", "\"a:\" is no as_host; give HOST or HOST:PORT"),
        ("path_rem=x", "\"x\" is no path_rem; give a number of bytes"),
        (
            "path_rem=-1",
            "\"-1\" is no path_rem; give a number of bytes",
        ),
        (
            "replace_beg=x",
            &format!("\"x\" is no replace_beg; {no_path}"),
        ),
        (
            "header=X",
            "\"X\" is no header; give NAME:VALUE, or NAME: to remove",
        ),
        (
            "header=:x",
            "\":x\" is no header; give NAME:VALUE, or NAME: to remove",
        ),
        ("header=x:1,header=X:2", "the header x is given twice"),
        (
            "jsonp_mode=x",
            "\"x\" is no jsonp_mode; give basic or extended",
        ),
        (
            "jsonp_cb=",
            "\"\" is no jsonp_cb; give the name of a query parameter",
        ),
        (
            "jsonp_body=",
            "\"\" is no jsonp_body; give the name of a query parameter",
        ),
        ("jsonp_defcb=", "\"\" is no jsonp_defcb; give a function"),
        (
            "jsonp_defmethod=",
            "\"\" is no jsonp_defmethod; give a method",
        ),
        ("log_level=4", &format!("\"4\" is no log_level; {no_level}")),
        ("log_level=x", &format!("\"x\" is no log_level; {no_level}")),
    ] {
        let text = format!("# comment\n*,{property} b:1");
        let column = if property.contains(",header") { 14 } else { 3 };
        check_mistakes(&text, &[&format!("2:{column}: {problem}")]);
    }
}

#[test]
fn targets_that_cannot_be_reached_are_mistakes() {
    let allowed = "give HOST:PORT, [IPV6]:PORT or test";
    for target in [
        "localhost",
        "localhost:",
        "a:0",
        "a:65536",
        "a:x",
        ":1",
        "::1:80",
        "[x]:1",
        "a@a:1",
        "a@[::1]:1",
    ] {
        let problem = format!("1:3: {target:?} is no target; {allowed}");
        check_mistakes(&format!("* {target}"), &[&problem]);
    }
    check_mistakes(
        "* ssl=yes",
        &[
            "1:3: ssl takes no value; give ssl alone",
            &format!("1:3: \"\" is no target; {allowed}"),
        ],
    );
    for (target, problem) in [
        ("host=a:0", "\"a:0\" is no host; give HOST or HOST:PORT"),
        ("sub=", "\"\" is no sub; give the name of a channel"),
        (
            "trust_connect_host",
            "trust_connect_host has no effect without ssl",
        ),
        ("insecure", "insecure has no effect without ssl"),
        (
            "ssl,client_cert=c",
            "client_cert has no effect without client_key",
        ),
        (
            "ssl,client_key=k",
            "client_key has no effect without client_cert",
        ),
        ("one_event", "one_event has no effect without over_http"),
    ] {
        let column = if target.starts_with("ssl,") { 11 } else { 7 };
        check_mistakes(
            &format!("* b:1,{target}"),
            &[&format!("1:{column}: {problem}")],
        );
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let allowed = "give HOST:PORT, [IPV6]:PORT or test";
    for target in ["zhttp/tcp://a:1", "zhttpreq/tcp://a:1"] {
        let problem =
            format!("1:3: {target:?} is a target over ZeroMQ, which is not supported; {allowed}");
        check_mistakes(&format!("* {target}"), &[&problem]);
    }
    check_mistakes(
        "* a:1,ipc_file_mode=777",
        &["1:7: ipc_file_mode is for ZeroMQ, which is not supported"],
    );
    check_mistakes("*,session a:1", &["1:3: session is not offered"]);
    check_mistakes("*,sockjs=/a a:1", &["1:3: sockjs is not offered"]);
    check_mistakes(
        "*,sockjs_as_path=/a a:1",
        &["1:3: sockjs_as_path is not offered"],
    );
}

#[test]
fn properties_have_their_form() {
    check_mistakes("*,foo a:1", &["1:3: \"foo\" is no property here"]);
    check_mistakes(
        "*,over_http a:1",
        &["1:3: \"over_http\" is no property here"],
    );
    check_mistakes(
        "* a:1,path_beg=/",
        &["1:7: \"path_beg\" is no property here"],
    );
    check_mistakes(
        "*,debug=no a:1",
        &["1:3: debug takes no value; give debug alone"],
    );
    check_mistakes("*,id a:1", &["1:3: id has no value; give id=VALUE"]);
    check_mistakes(
        "*,header a:1",
        &["1:3: header has no value; give header=VALUE"],
    );
    check_mistakes("*,id=a,id=b a:1", &["1:8: id is given twice"]);
    check_mistakes("*,aco,aco a:1", &["1:7: aco is given twice"]);
}

#[test]
fn a_route_needs_a_target() {
    check_mistakes(
        "  example.com  # later",
        &["1:3: the route has no target; give at least one, such as localhost:8080"],
    );
}

#[test]
fn a_text_without_routes_is_a_mistake() {
    let expected = "1:1: the file has no route; give at least one, such as * localhost:8080";
    check_mistakes("", &[expected]);
    check_mistakes("# nothing\n\n", &[expected]);
}

#[test]
fn no_two_routes_have_the_same_condition_or_id() {
    check_mistakes(
        "a b:1\n\nA c:1",
        &["3:1: the condition is the same as in line 1"],
    );
    check_mistakes(
        "a,ssl=no,path_beg=/x,proto=ws b:1\na,proto=ws,path_beg=/x,ssl=no,debug c:1",
        &["2:1: the condition is the same as in line 1"],
    );
    check_mistakes(
        "a,id=x b:1\nid=x c:1",
        &["2:1: the id \"x\" is the same as in line 1"],
    );
    for line in [
        "b",
        "a,ssl=no",
        "a,proto=ws",
        "a,path_beg=/x",
        "id=x",
        "id=y",
    ] {
        assert!(parse(&format!("a,id=z b:1\n{line} c:1")).is_ok(), "{line}");
    }
    assert!(parse("id=x b:1\nid=y b:1").is_ok());
}

#[test]
fn all_mistakes_are_reported_at_once_and_in_order() {
    check_mistakes(
        "a b:1\na,foo,proto=x c d:0\n\"\na d:1\r\n*,ssl d:1",
        &[
            "2:3: \"foo\" is no property here",
            "2:7: \"x\" is no proto; give http or ws",
            "2:15: \"c\" is no target; give HOST:PORT, [IPV6]:PORT or test",
            "2:17: \"d:0\" is no target; give HOST:PORT, [IPV6]:PORT or test",
            "3:1: the quotes are not closed; give \" at the end",
            "4:1: the condition is the same as in line 1",
            "5:3: ssl has no value; give ssl=VALUE",
        ],
    );
}

#[test]
fn a_text_alone_opens_no_file() {
    let mistakes = parse("*,sig_key=file:/dev/stdin a:1").unwrap_err();
    let text = mistakes[0].to_string();
    assert!(
        text.starts_with("1:3: cannot read file:/dev/stdin: "),
        "{text}"
    );
}

#[test]
fn keys_are_not_shown() {
    let mistakes = parse("*,sig_key=base64:secret$ a:1").unwrap_err();
    let text = mistakes[0].to_string();
    assert!(
        text.contains("not base64") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn ids_follow_from_the_condition_unless_given() {
    let check = |line: &str, expected: &str| assert_eq!(&*only_route(line).id, expected);
    check("* a:1", "*,*,*,*");
    check("b,proto=ws,ssl=yes,path_beg=/x a:1", "b,ws,ssl,/x");
    check("b,proto=http,ssl=no a:1", "b,http,no-ssl,*");
    check("b,id=x a:1", "x");
}

#[track_caller]
fn check_toml(toml: &str, expected: &str) {
    let raw: RawRoute = toml::from_str(toml).unwrap();
    let routes = super::check(&[raw], Path::new("")).unwrap();
    let expected = format!("{:?}", only_route(expected));
    assert_eq!(format!("{:?}", routes.all()[0]), expected);
}

#[test]
fn both_forms_mean_the_same() {
    check_toml("host = \"*\"\ntargets = [\"a:1\"]", "* a:1");
    check_toml(
        r#"
            host = "b"
            proto = "ws"
            ssl = true
            path_beg = "/x"
            id = "i"
            sig_iss = "s"
            sig_key = "k"
            prefix = "p"
            as_host = "h"
            path_rem = 2
            replace_beg = "/y"
            header = ["A:b", "C:"]
            orig_headers = true
            debug = true
            aco = true
            jsonp_mode = "basic"
            jsonp_cb = "c"
            jsonp_body = "o"
            jsonp_defcb = "d"
            jsonp_defmethod = "PUT"
            compression = true
            sse_resume = true
            slow = "drop-oldest"
            no_grip = true
            log_level = 1
            targets = ["a:1"]
        "#,
        "b,proto=ws,ssl=yes,path_beg=/x,id=i,sig_iss=s,sig_key=k,prefix=p,as_host=h,path_rem=2,\
         replace_beg=/y,header=A:b,header=C:,orig_headers,debug,aco,jsonp_mode=basic,jsonp_cb=c,\
         jsonp_body=o,jsonp_defcb=d,jsonp_defmethod=PUT,compression,sse_resume,\
         slow=drop-oldest,no_grip,\
         log_level=1 a:1",
    );
    check_toml(
        r#"
            id = "i"
            ssl = false
            debug = false
            [[targets]]
            address = "a:1"
            ssl = true
            host = "h"
            trust_connect_host = true
            insecure = true
            untrusted = true
            over_http = true
            one_event = true
            sub = ["x", "y"]
            client_cert = "c"
            client_key = "k"
            [[targets]]
            address = "test"
        "#,
        "id=i,ssl=no a:1,ssl,host=h,trust_connect_host,insecure,untrusted,over_http,one_event,\
         sub=x,sub=y,client_cert=c,client_key=k test",
    );
    check_toml(
        r#"
            host = "*"
            targets = ["a:1,sub=\"x, y\"", { address = "b:1", ssl = true }]
        "#,
        "* a:1,sub=\"x, y\" b:1,ssl",
    );
}

#[test]
fn mistakes_in_toml_name_their_keys() {
    let check = |toml: &str, expected: &[(&str, &str)]| {
        let raw: RawRoute = toml::from_str(toml).unwrap();
        let routes = [raw.clone(), raw];
        let mistakes = super::check(&routes[..1], Path::new("")).expect_err(toml);
        let found = mistakes.iter().map(|(key, problem)| (&**key, &**problem));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{toml}");
    };
    let no_target = "is no target; give HOST:PORT, [IPV6]:PORT or test";
    check(
        "host = \"*\"\npath_rem = 1\npath_beg = \"x\"\ntargets = [\"a:1\", \"b\"]",
        &[
            (
                "routes[0].path_beg",
                "\"x\" is no path_beg; give a path that begins with / and has no query",
            ),
            ("routes[0].targets[1]", &format!("\"b\" {no_target}")),
        ],
    );
    check(
        "host = \"*\"\ntargets = [{ sub = [\"\"] }]",
        &[
            (
                "routes[0].targets[0].sub",
                "\"\" is no sub; give the name of a channel",
            ),
            ("routes[0].targets[0]", &format!("\"\" {no_target}")),
        ],
    );
    let not_one = |text| format!("{text:?} is not one target; give each a text of its own");
    check(
        "host = \"*\"\ntargets = [\"a:1 b:2\"]",
        &[("routes[0].targets[0]", &not_one("a:1 b:2"))],
    );
    check(
        "host = \"*\"\ntargets = [\"\"]",
        &[("routes[0].targets[0]", &not_one(""))],
    );
    check(
        "host = \"*\"",
        &[(
            "routes[0]",
            "the route has no target; give at least one, such as localhost:8080",
        )],
    );
}

#[test]
fn routes_in_toml_that_are_the_same_name_each_other() {
    let raw: RawRoute = toml::from_str("host = \"*\"\ntargets = [\"a:1\"]").unwrap();
    let mistakes = super::check(&[raw.clone(), raw], Path::new("")).unwrap_err();
    let (key, problem) = &mistakes[0];
    assert_eq!(key, "routes[1]");
    assert_eq!(problem, "the condition is the same as in routes[0]");
}

#[test]
fn toml_of_another_form_is_a_mistake() {
    let check = |toml: &str, expected: &str| {
        let text = toml::from_str::<RawRoute>(toml)
            .expect_err(toml)
            .to_string();
        assert!(text.contains(expected), "{text}\nlacks\n{expected}");
    };
    check("session = true", "unknown field `session`");
    check("targets = [{ adress = \"a:1\" }]", "unknown field `adress`");
    check("targets = [1]", "expected a target: a text such as");
    check("targets = \"a:1\"", "expected a sequence");
    check("ssl = \"yes\"", "expected a boolean");
}

/// The path that the origin sees.
#[track_caller]
fn check_rewritten(condition: &str, path: &str, expected: &str) {
    let routes = parse(&format!("{condition} a:1")).unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let rewritten = routes.all()[0].rewrite_path(&path);
    assert_eq!(rewritten, expected, "{condition} {path}");
}

#[test]
fn paths_stay_unless_a_route_says_otherwise() {
    check_rewritten("*", "/a/b?c", "/a/b?c");
    check_rewritten("*,path_beg=/a", "/a/b?c", "/a/b?c");
    check_rewritten("*,path_rem=0", "/a", "/a");
}

#[test]
fn path_rem_takes_bytes_from_the_start() {
    check_rewritten("*,path_rem=2", "/a/b?c", "/b?c");
    check_rewritten("*,path_rem=1", "/a", "/a");
    check_rewritten("*,path_rem=2", "/abc", "/bc");
    check_rewritten("*,path_rem=2", "/a?b", "/?b");
    check_rewritten("*,path_rem=9", "/a", "/");
    check_rewritten("*,path_rem=2", "/ä/b", "/b");
    check_rewritten("*,path_rem=1", "*", "*");
}

#[test]
fn replace_beg_stands_in_place_of_path_beg() {
    check_rewritten("*,path_beg=/a,replace_beg=/x", "/a/b?c", "/x/b?c");
    check_rewritten("*,path_beg=/a/,replace_beg=/x/y/", "/a/b", "/x/y/b");
    check_rewritten("*,path_beg=/a,replace_beg=", "/a/b", "/b");
    check_rewritten("*,path_beg=/a/,replace_beg=", "/a/b", "/b");
    check_rewritten("*,path_beg=/a,replace_beg=", "/a", "/");
    check_rewritten("*,replace_beg=/x", "/a", "/x/a");
    check_rewritten("*,path_beg=/a,path_rem=9,replace_beg=/x", "/a/b", "/x/b");
}

#[track_caller]
fn check_test(condition: &str, path: &str, expected: &str) {
    let routes = parse(&format!("{condition} test")).unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let seen = routes.all()[0].test_path(&path);
    assert_eq!(seen, expected, "{condition} {path}");
}

#[test]
fn the_test_target_does_not_see_path_beg() {
    check_test("*", "/stream?channel=a", "/stream?channel=a");
    check_test("*,path_beg=/a/", "/a/stream?b", "/stream?b");
    check_test("*,path_beg=/a", "/a/stream", "/stream");
    check_test("*,path_beg=/a", "/a", "/");
    check_test("*,path_beg=/", "/stream", "/stream");
    check_test("*,path_beg=/a", "/stream", "/stream");
}

/// A small generator, so that a seed reproduces a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn random(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

const PIECES: &[&str] = &[
    " ",
    " ",
    ",",
    ",",
    "=",
    "\"",
    "\\",
    "#",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "ä",
    "\u{feff}",
    "%",
    "?",
    "/",
    ":",
    "*",
    "[",
    "]",
    "@",
    ".",
    "a",
    "b",
    "1",
    "80",
    "65536",
    "test",
    "a:1",
    "[::1]:80",
    "zhttp/",
    "* a:1",
    "proto=",
    "ws",
    "ssl",
    "ssl=yes",
    "path_beg=/",
    "id=",
    "sig_iss=",
    "sig_key=",
    "base64:",
    "file:",
    "prefix=",
    "as_host=",
    "path_rem=",
    "replace_beg=/",
    "header=",
    "orig_headers",
    "debug",
    "aco",
    "jsonp_mode=basic",
    "jsonp_cb=",
    "compression",
    "sse_resume",
    "slow=",
    "no_grip",
    "log_level=",
    "session",
    "host=",
    "insecure",
    "over_http",
    "one_event",
    "sub=",
    "client_cert=",
];

/// No text makes the reader panic; mistakes lie inside of it, and routes can be asked for.
#[test]
fn any_text_is_routes_or_mistakes() {
    let mut valid = 0;
    for seed in 1..=20_000 {
        let mut random = random(seed);
        let start = random.one_of(&["", "*", "* a:1", "id=x,"]);
        let pieces = (0..random.below(12)).map(|_| random.one_of(PIECES));
        let text = start.to_owned() + &pieces.collect::<String>();
        match parse(&text) {
            Ok(routes) => {
                valid += 1;
                check_use(&routes, &text);
            }
            Err(mistakes) => check_places(&mistakes, &text),
        }
    }
    assert!(valid > 100, "only {valid} texts are valid");
}

fn check_use(routes: &Routes, text: &str) {
    assert!(!routes.all().is_empty(), "{text:?}");
    for path in ["/", "*", "/a/b?c", "/ä", "/%"] {
        let Ok(path) = PathAndQuery::try_from(path) else {
            continue;
        };
        for route in routes.all() {
            assert!(!route.targets.is_empty(), "{text:?}");
            let rewritten = route.test_path(&route.rewrite_path(&path));
            assert_eq!(rewritten.query(), path.query(), "{text:?}");
        }
    }
}

fn check_places(mistakes: &[Mistake], text: &str) {
    assert!(!mistakes.is_empty(), "{text:?}");
    for Mistake { line, column, .. } in mistakes {
        let length = text
            .lines()
            .nth(line - 1)
            .map_or(0, |line| line.chars().count());
        assert!(
            (1..=length + 1).contains(column),
            "{text:?} {line}:{column}"
        );
    }
}
