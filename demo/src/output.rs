//! What `live-counter` tells the person who started it.

use std::io::Write as _;

use live_counter::demo::{Demo, Options, Progress, Step};

/// One line on standard output. A reader that has left is no reason to stop.
pub(crate) fn line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Why the program ends, on standard error.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "live-counter: {error:#}");
}

/// Everything runs: where, and what to try.
pub(crate) fn started(demo: &Demo, options: &Options) {
    line(&guide(demo, options));
}

/// Two lines for each step of the start.
pub(crate) struct Steps;

impl Progress for Steps {
    fn begin(&mut self, step: Step) {
        let number = Step::ALL.iter().take_while(|other| **other != step).count() + 1;
        line(&format!("[{number}/{}] {step}", Step::ALL.len()));
    }

    fn done(&mut self, result: &str) {
        line(&format!("      {result}"));
    }
}

fn guide(demo: &Demo, options: &Options) -> String {
    let (hub, control) = (demo.hub_addr(), demo.control_addr());
    let (edge, origin) = (demo.edge_addr(), demo.origin_addr());
    let data = options.data.display();
    format!(
        r#"
Live Counter runs:  http://{hub}/

Try
  the page, in two tabs or more: each shows the same value, and where its first one came from
  following the counter (twice: the second time the edge answers, see X-Cache)
    curl -iN -H 'Accept: text/event-stream' http://{hub}/counters/clicks
  adding one
    curl -X POST http://{hub}/counters/clicks
  publishing a note to all pages, past the origin
    curl -d '{{"items":[{{"channel":"counter-clicks","http-stream":{{"content":"event: note\ndata: Hello!\n\n"}}}}]}}' http://{control}/publish/
  asking the edge without the hub, which it refuses: only the hub may be told to hold
    curl -i -H 'Accept: text/event-stream' http://{edge}/counters/clicks

The origin is at http://{origin}/, its counters are in {data}
Ctrl-C stops everything."#
    )
}
