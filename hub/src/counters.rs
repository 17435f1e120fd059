//! What the hub counts, and how it is shown: Prometheus' text format.
//!
//! Every thread has its own [`Counters`] and is their only writer; a scrape reads all of them and
//! adds up. So counting costs a plain load and store, and a scrape never waits for a busy shard.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// One number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Adds without an atomic read-modify-write: only the owning thread writes.
    pub(crate) fn add(&self, count: u64) {
        self.set(self.value().wrapping_add(count));
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $field:ident: $name:literal, $kind:literal;)+) => {
        /// The numbers of one thread.
        ///
        /// No other thread writes to its lines of the processors' caches.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[doc = $help])+ pub(crate) $field: Counter,)+
        }

        impl Counters {
            /// The sums over all threads in Prometheus' text format.
            pub(crate) fn render<'a>(threads: impl Iterator<Item = &'a Self> + Clone) -> String {
                let mut text = String::new();
                $(
                    let sum: u64 = threads.clone().map(|counters| counters.$field.value()).sum();
                    let help = concat!($($help),+).trim();
                    writeln!(text, "# HELP {0} {help}\n# TYPE {0} {1}\n{0} {sum}", $name, $kind)
                        .expect("a String takes all that is written");
                )+
                text
            }
        }
    };
}

counters! {
    /// Client connections accepted.
    connections: "gripline_connections_total", "counter";
    /// Client connections refused because the limit of open ones was reached.
    connections_refused: "gripline_connections_refused_total", "counter";
    /// Client connections refused because they came faster than `accept_rate`.
    connections_paced: "gripline_connections_paced_total", "counter";
    /// Client connections refused before their request came, because too many were waited for.
    connections_unheard: "gripline_connections_unheard_total", "counter";
    /// Holds over HTTP/2 refused because the limit of open connections was reached.
    holds_refused: "gripline_holds_refused_total", "counter";
    /// Requests received from clients.
    requests: "gripline_requests_total", "counter";
    /// Request heads that are not HTTP.
    malformed_heads: "gripline_malformed_heads_total", "counter";
    /// Request heads over the limit of bytes or fields.
    oversized_heads: "gripline_oversized_heads_total", "counter";
    /// Requests sent to origins and to the edge, purges included.
    origin_requests: "gripline_origin_requests_total", "counter";
    /// Connections opened for these requests.
    origin_connections: "gripline_origin_connections_total", "counter";
    /// Requests that could not be proxied because of the origin.
    origin_errors: "gripline_origin_errors_total", "counter";
    /// Exchanges of WebSocket events with origins that failed, repeated ones included.
    exchange_errors: "gripline_exchange_errors_total", "counter";
    /// Responses whose GRIP instructions could not be followed.
    instruct_errors: "gripline_instruct_errors_total", "counter";
    /// Requests that no route is for.
    unrouted_requests: "gripline_unrouted_requests_total", "counter";
    /// Requests refused because they came through this hub before.
    loops: "gripline_loops_total", "counter";
    /// Answers that the edge had stored, and gave out because the origin fails.
    stale_answers: "gripline_stale_answers_total", "counter";
    /// Clients that an edge asked to be held.
    edge_holds: "gripline_edge_holds_total", "counter";
    /// Hold requests and handed-over requests that no known edge has signed, or that make no sense.
    edge_refused: "gripline_edge_refused_total", "counter";
    /// Tasks of shards: clients that are not held, and what is read or asked beside held ones.
    tasks: "gripline_tasks", "gauge";
    /// Streams held open.
    held_streams: "gripline_held_streams", "gauge";
    /// Requests held for an answer.
    held_responses: "gripline_held_responses", "gauge";
    /// WebSockets held open.
    held_websockets: "gripline_held_websockets", "gauge";
    /// Subscriptions of held connections to channels.
    subscriptions: "gripline_subscriptions", "gauge";
    /// Held connections whose client left.
    clients_gone: "gripline_clients_gone_total", "counter";
    /// Held connections closed because their client reads too slowly.
    slow_consumers: "gripline_slow_consumers_total", "counter";
    /// Bytes that wait for connections that have not read what was written before.
    pending_bytes: "gripline_pending_bytes", "gauge";
    /// Items that were not sent to connections that read too slowly.
    dropped_items: "gripline_dropped_items_total", "counter";
    /// Times that a connection that reads too slowly has missed something, and gets it later.
    overflows: "gripline_overflows_total", "counter";
    /// Items handed to a connection.
    deliveries: "gripline_deliveries_total", "counter";
    /// Bytes written to held connections.
    sent_bytes: "gripline_sent_bytes_total", "counter";
    /// Keep-alives sent.
    keep_alives: "gripline_keep_alives_total", "counter";
    /// Held requests answered because their time was up.
    timeouts: "gripline_timeouts_total", "counter";
    /// Routes files taken while the hub runs.
    route_reloads: "gripline_route_reloads_total", "counter";
    /// Routes files not taken while the hub runs, because of mistakes.
    route_errors: "gripline_route_errors_total", "counter";
    /// Items that came a second time and were dropped.
    duplicate_items: "gripline_duplicate_items_total", "counter";
    /// Items that came before the one that they follow, and waited for it.
    early_items: "gripline_early_items_total", "counter";
    /// Items that waited in vain for the one that they follow.
    unfollowed_items: "gripline_unfollowed_items_total", "counter";
    /// Items that came after the ones that follow them.
    late_items: "gripline_late_items_total", "counter";
    /// Times that a connection named the last item that it had, and was brought up to date without
    /// its origin.
    resumed: "gripline_resumed_total", "counter";
    /// Items that connections got out of the history for that.
    replayed_items: "gripline_replayed_items_total", "counter";
    /// Times that the history did not reach back to the last item that a connection had.
    behind: "gripline_behind_total", "counter";
    /// Items in the history.
    history_items: "gripline_history_items", "gauge";
    /// Bytes of the items in the history.
    history_bytes: "gripline_history_bytes", "gauge";
    /// Channels that are known.
    channels: "gripline_channels", "gauge";
    /// Times that a connection lacked items, and that its origin was asked, if it can be.
    gaps: "gripline_gaps_total", "counter";
    /// Held requests for which the origin was asked again.
    retries: "gripline_retries_total", "counter";
    /// Times that a stream went on with its next link; many may share one request.
    links_followed: "gripline_links_followed_total", "counter";
    /// Next links that could not be followed, by stream.
    link_errors: "gripline_link_errors_total", "counter";
    /// Requests that the hub made on its own: links, gone links, questions of filters.
    errands: "gripline_errands_total", "counter";
    /// Gone links that were not told because too many waited.
    farewells_dropped: "gripline_farewells_dropped_total", "counter";
    /// Items that a filter could not handle, by connection.
    filter_errors: "gripline_filter_errors_total", "counter";
    /// Items dropped because too many waited for one connection while it asked its origin.
    backlog_dropped: "gripline_backlog_dropped_total", "counter";
    /// Requests that carried events of WebSockets to their origins.
    websocket_exchanges: "gripline_websocket_exchanges_total", "counter";
    /// Messages, pings and pongs of origins that went to clients, in pieces if they were large.
    websocket_messages_out: "gripline_websocket_messages_out_total", "counter";
    /// Messages of origins that had no prefix, and so went nowhere.
    websocket_dropped: "gripline_websocket_dropped_total", "counter";
    /// WebSockets closed because their client broke the protocol or a limit.
    websocket_errors: "gripline_websocket_errors_total", "counter";
    /// WebSockets closed because of their origin.
    websocket_origin_errors: "gripline_websocket_origin_errors_total", "counter";
    /// Control messages of origins that could not be read, or asked for too much.
    control_message_errors: "gripline_control_message_errors_total", "counter";
    /// Requests to the control port.
    control_requests: "gripline_control_requests_total", "counter";
    /// Requests to the control port that were refused for their path, method or form.
    control_refused: "gripline_control_refused_total", "counter";
    /// Publish requests that were refused for their body.
    publish_errors: "gripline_publish_errors_total", "counter";
    /// Publish requests that were refused because too many items wait.
    publish_overloaded: "gripline_publish_overloaded_total", "counter";
    /// Requests of publishers that did not prove who they are.
    publish_unauthorized: "gripline_publish_unauthorized_total", "counter";
    /// Items accepted for publishing.
    published_items: "gripline_published_items_total", "counter";
    /// Channels purged at the edge for items.
    purges: "gripline_purges_total", "counter";
    /// Channels purged once more a while after their last purge.
    second_purges: "gripline_second_purges_total", "counter";
    /// Purge requests sent; each is for up to 256 channels.
    purge_requests: "gripline_purge_requests_total", "counter";
    /// Purge requests that failed or took too long.
    purge_errors: "gripline_purge_errors_total", "counter";
    /// Channels whose purge was tried again after it had failed.
    purge_retries: "gripline_purge_retries_total", "counter";
    /// Channels whose purge failed and is not tried again.
    purges_given_up: "gripline_purges_given_up_total", "counter";
    /// Items that went out although the purge before them had failed or was late.
    unpurged_items: "gripline_unpurged_items_total", "counter";
    /// Items replaced by a newer one while they waited.
    coalesced_items: "gripline_coalesced_items_total", "counter";
    /// Items that were accepted and have not reached the shards.
    intake_items: "gripline_intake_items", "gauge";
    /// Bytes of these items.
    intake_bytes: "gripline_intake_bytes", "gauge";
    /// Items that wait for a window to end or for a purge.
    waiting_items: "gripline_waiting_items", "gauge";
    /// Milliseconds since the oldest waiting item, or the oldest that it stands for, came.
    oldest_waiting: "gripline_oldest_waiting_milliseconds", "gauge";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_adds_up_all_threads() {
        let threads = [Counters::default(), Counters::default()];
        threads[0].requests.add(3);
        threads[1].requests.increment();
        let text = Counters::render(threads.iter());
        assert!(text.contains("\ngripline_requests_total 4\n"), "{text}");
        assert!(
            text.contains("# TYPE gripline_held_streams gauge\n"),
            "{text}"
        );
        assert!(
            text.contains("# HELP gripline_requests_total Requests received from clients.\n"),
            "{text}"
        );
    }
}
