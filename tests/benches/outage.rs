//! What an outage of the origin does to new clients, to held ones, and to the origin when it is back.
//!
//! `cargo bench -p e2e --bench outage` kills the origin for a minute while 50 clients a second come
//! through hub and edge, half for pages and half for streams, and an item a second is published. It
//! prints the share of clients that were served, how many of the items the held ones got, and the
//! origin's requests in each second before the outage and after its return.
//! `GRIPLINE_BENCH_SECONDS` is the time without an origin, 60 if it is not set.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use e2e::outage::{PATHS, Part, Plan, run};

#[tokio::main]
async fn main() {
    let seconds = std::env::var("GRIPLINE_BENCH_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(60);
    let plan = Plan {
        before: Duration::from_secs(10),
        outage: Duration::from_secs(seconds),
        after: Duration::from_secs(10),
    };
    let report = run(plan).await;
    println!("{PATHS} pages and {PATHS} streams, the origin away for {seconds} s");
    tell("before", &report.before);
    tell("without an origin", &report.outage);
    tell("after its return", &report.after);
    let (published, due, delivered) = (report.published, report.due, report.delivered);
    println!("{published} items published: {delivered} of {due} deliveries to held clients");
}

fn tell(name: &str, part: &Part) {
    println!(
        "{name}: served {} of {} pages and {} of {} streams; requests to the origin by second: {:?}",
        part.pages_served, part.pages, part.streams_served, part.streams, part.requests
    );
}
