//! Many streams on one channel: everybody gets everything, once and in order.

use e2e::client::Client;
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use tokio::task::JoinSet;

const CLIENTS: usize = 1000;
const ITEMS: usize = 100;

fn item(number: usize) -> String {
    format!("item {number}\n")
}

/// Opens streams in parallel, each up to the end of its initial body.
async fn open_all(hub: &Hub) -> Vec<Client> {
    let mut opening = JoinSet::new();
    for _ in 0..CLIENTS {
        let addr = hub.addr();
        opening.spawn(async move {
            let mut client = Client::get(addr, "/stream", &[]).await;
            client.stream_begins("hi\n").await;
            client
        });
    }
    opening.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_get_a_hundred_items_once_and_in_order() {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let hub = Hub::start(&origin.url());
    let clients = open_all(&hub).await;
    hub.until_metric("gripline_held_streams", CLIENTS as u64)
        .await;

    let mut reading = JoinSet::new();
    for mut client in clients {
        reading.spawn(async move {
            for number in 0..ITEMS {
                client.receives_next(&item(number)).await;
            }
            client
        });
    }
    for number in 0..ITEMS {
        hub.publish_stream("updates", &item(number)).await;
    }
    let clients = reading.join_all().await;

    assert_eq!(
        hub.metric("gripline_deliveries_total").await,
        (CLIENTS * ITEMS) as u64
    );
    for mut client in clients {
        client.is_quiet();
    }
    hub.until_metric("gripline_held_streams", 0).await;
}

/// The order of two publishers is the order of arrival, which is the same for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn items_of_many_publishers_reach_all_streams_in_one_order() {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let hub = Hub::start(&origin.url());
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::get(hub.addr(), "/stream", &[]).await;
        client.stream_begins("hi\n").await;
        clients.push(client);
    }

    let publish_ten = |publisher: usize| {
        let hub = &hub;
        async move {
            for number in 0..10 {
                let content = format!("{publisher}:{number}\n");
                hub.publish_stream("updates", &content).await;
            }
        }
    };
    tokio::join!(publish_ten(0), publish_ten(1), publish_ten(2));
    hub.publish_stream("updates", "end\n").await;

    let mut contents = Vec::new();
    for client in &mut clients {
        contents.push(client.content_until("end\n").await);
    }
    for content in &contents {
        assert_eq!(content, &contents[0]);
    }
    for publisher in 0..3 {
        let own = format!("{publisher}:");
        let lines: Vec<&str> = contents[0]
            .lines()
            .filter(|l| l.starts_with(&own))
            .collect();
        let expected: Vec<String> = (0..10).map(|number| format!("{own}{number}")).collect();
        assert_eq!(lines, expected);
    }
}
