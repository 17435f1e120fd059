//! Bodies of a gibibyte go through the hub in bounded memory, at the speed of whoever reads them.
//!
//! Hub, client and origin are in this process, and none of them may keep what has passed: so the
//! memory of all three is measured. What sockets keep is the kernel's, and has bounds of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use e2e::client::{self, Client};
use e2e::flood::{self, Content, Flood};
use e2e::http2::Http2;
use e2e::hub::{Hub, config};
use tokio::sync::{Semaphore, SemaphorePermit};

const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;
/// By so much memory may grow; most of it are buffers of TLS, runtimes and allocators.
const GROWTH: u64 = 64 * MEBIBYTE;
/// What the kernel's buffers and the hub's may hold of one body, on its way from end to end.
const UNDER_WAY: u64 = 32 * MEBIBYTE;

/// Memory is that of the process, so there is one test at a time.
static ALONE: Semaphore = Semaphore::const_new(1);

async fn alone() -> SemaphorePermit<'static> {
    ALONE.acquire().await.expect("it is never closed")
}

/// All requests go through one thread, and no one of them may keep the others from it.
fn start(flood: &Flood) -> Hub {
    let mut config = config(&flood.url());
    config.shards = Some(1);
    Hub::start_with(&config)
}

/// Compares this process's memory with what it was, now and then.
struct Memory {
    before: u64,
    next: u64,
}

impl Memory {
    fn new() -> Self {
        Self {
            before: flood::resident_bytes(),
            next: 0,
        }
    }

    /// To be told how far a body has come.
    fn watch(&mut self, passed: u64) {
        if passed >= self.next {
            self.next += 16 * MEBIBYTE;
            let growth = flood::resident_bytes().saturating_sub(self.before);
            assert!(growth < GROWTH, "{growth} bytes more after {passed}");
        }
    }
}

async fn begin_download(hub: &Hub, target: &str) -> Client {
    let mut client = Client::get(hub.addr(), target, &[]).await;
    let head = client.head().await;
    assert_eq!(client::status(&head), 200);
    client
}

async fn begin_upload(hub: &Hub, field: &str) -> Client {
    let mut client = Client::connect(hub.addr()).await;
    client.request("POST", "/", &[field], "").await;
    client
}

async fn download(hub: &Hub, target: &str, expected: u64) {
    let mut memory = Memory::new();
    let mut client = begin_download(hub, target).await;
    let bytes = flood::download(&mut client, |passed| memory.watch(passed)).await;
    assert_eq!(bytes, expected);
}

async fn upload(hub: &Hub, bytes: u64) {
    let mut memory = Memory::new();
    let mut client = begin_upload(hub, &format!("Content-Length: {bytes}")).await;
    flood::upload(&mut client, bytes, |passed| memory.watch(passed)).await;
    client.response().await.check(200, &bytes.to_string());
}

#[tokio::test]
async fn a_gibibyte_goes_to_the_client() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    download(&hub, &format!("/sized/{GIBIBYTE}"), GIBIBYTE).await;
}

#[tokio::test]
async fn a_gibibyte_in_chunks_goes_to_the_client() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    download(&hub, &format!("/chunked/{GIBIBYTE}"), GIBIBYTE).await;
}

#[tokio::test]
async fn a_gibibyte_goes_to_the_origin() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    upload(&hub, GIBIBYTE).await;
}

#[tokio::test]
async fn a_gibibyte_in_chunks_goes_to_the_origin() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    let mut memory = Memory::new();
    let mut client = begin_upload(&hub, "Transfer-Encoding: chunked").await;
    let watch = |passed| memory.watch(passed);
    flood::upload_chunked(&mut client, GIBIBYTE, watch).await;
    client.response().await.check(200, &GIBIBYTE.to_string());
}

#[tokio::test]
async fn a_quarter_of_it_goes_over_http2() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    // The kit's windows are small, which takes its time.
    let bytes = GIBIBYTE / 4;
    let mut http2 = Http2::connect(hub.addr()).await;
    let mut memory = Memory::new();
    let mut exchange = http2.get(&format!("/sized/{bytes}"), &[]).await;
    exchange.head().await;
    let mut content = Content::default();
    while let Some(piece) = exchange.try_piece().await.expect("it goes on") {
        content.check(&piece);
        memory.watch(content.passed());
    }
    assert_eq!(content.passed(), bytes);
}

/// A stream's first body may be of any size, and then the stream is held.
#[tokio::test]
async fn a_gibibyte_goes_to_a_client_that_is_held_then() {
    let _alone = alone().await;
    let flood = Flood::start().await;
    let hub = start(&flood);
    let mut memory = Memory::new();
    let mut client = begin_download(&hub, &format!("/held/{GIBIBYTE}")).await;
    let mut content = Content::default();
    while content.passed() < GIBIBYTE {
        let piece = client.piece().await.expect("it goes on");
        content.check(&piece);
        memory.watch(content.passed());
    }
    hub.until_metric("gripline_held_streams", 1).await;
    hub.publish_stream("c", "item\n").await;
    client.receives("item\n").await;
}

/// Nobody waits here for something that does not happen. Instead, another body goes all the way
/// through the same thread meanwhile, so there was time enough.
#[tokio::test]
async fn the_origin_waits_for_a_client_that_does_not_read() {
    let _alone = alone().await;
    let bytes = 4 * UNDER_WAY;
    for framing in ["sized", "chunked", "held"] {
        let flood = Flood::start().await;
        let hub = start(&flood);
        let mut slow = begin_download(&hub, &format!("/{framing}/{bytes}")).await;
        download(&hub, &format!("/sized/{bytes}"), bytes).await;
        let sent = flood.first();
        assert!(sent < UNDER_WAY, "{framing}: {sent} bytes were sent");
        let mut content = Content::default();
        while content.passed() < bytes {
            let piece = slow.piece().await.expect("it goes on");
            content.check(&piece);
        }
    }
}

#[tokio::test]
async fn the_client_waits_for_an_origin_that_does_not_read() {
    let _alone = alone().await;
    let flood = Flood::start_closed().await;
    let hub = start(&flood);
    let bytes = 4 * UNDER_WAY;
    let mut slow = begin_upload(&hub, &format!("Content-Length: {bytes}")).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    // The origin's first connection is this one's.
    flood.until_connected().await;
    let sending = tokio::spawn(async move {
        let keep = |passed| count.store(passed, Ordering::Relaxed);
        flood::upload(&mut slow, bytes, keep).await;
        slow
    });
    upload(&hub, bytes).await;
    let before = sent.load(Ordering::Relaxed);
    assert!(before < UNDER_WAY, "{before} bytes were sent");
    assert_eq!(flood.first(), 0);
    flood.open();
    let mut slow = sending.await.expect("all is sent");
    slow.response().await.check(200, &bytes.to_string());
}
