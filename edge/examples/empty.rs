//! Answers everything at once with the same bytes: what the platform alone costs. The bench
//! `edge_hits` compares the edge with it.

use fastly::Response;

fn main() {
    Response::from_body("{\"name\":\"clicks\",\"value\":12}\n").send_to_client();
}
