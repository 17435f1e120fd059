//! What `live-counter` tells the person who started it.

use std::io::Write as _;

use live_counter::demo::{Demo, Options, Progress, Step};
use live_counter::stack::topology::Topology;

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
    let (front, control) = (demo.front_addr(), demo.control_addr());
    let origin = demo.origin_addr();
    let aside = aside(demo, options.topology);
    let data = options.data.display();
    format!(
        r#"
Live Counter runs:  http://{front}/

Try
  the page, in two tabs or more: each shows the same value, and where its first one came from
  following the counter (twice: the second time the edge answers, see X-Cache)
    curl -iN -H 'Accept: text/event-stream' http://{front}/counters/clicks
  adding one
    curl -X POST http://{front}/counters/clicks
  publishing a note to all pages, past the origin
    curl -d '{{"items":[{{"channel":"counter-clicks","http-stream":{{"content":"event: note\ndata: Hello!\n\n"}}}}]}}' http://{control}/publish/
{aside}

The origin is at http://{origin}/, its counters are in {data}
Ctrl-C stops everything."#
    )
}

/// Something to see that is this topology's own.
fn aside(demo: &Demo, topology: Topology) -> String {
    let (hub, edge) = (demo.hub_addr(), demo.edge_addr());
    match topology {
        Topology::HubFront => format!(
            "  asking the edge without the hub, which it refuses: only the hub may be told to hold\n    \
             curl -i -H 'Accept: text/event-stream' http://{edge}/counters/clicks"
        ),
        Topology::EdgeFront | Topology::Fanout => format!(
            "  the hub behind the edge, and whom it holds\n    \
             curl -s http://{}/metrics | grep held\n  \
             its own address, http://{hub}/, is for the edge",
            demo.control_addr()
        ),
    }
}
