//! What an item weighs.

use grip::publish::{HttpResponse, HttpStream, Item, ResponseBody, WsMessage};

/// Bytes that an item keeps alive, more or less.
pub(crate) fn of(item: &Item) -> usize {
    /// An item without content, its name and its place.
    const EMPTY: usize = 512;
    let response = match &item.http_response {
        Some(HttpResponse::Send(message)) => match &message.body {
            ResponseBody::Complete(body) => body.len(),
            ResponseBody::Patch(patch) => 256 * patch.0.len(),
        },
        _ => 0,
    };
    let stream = match &item.http_stream {
        Some(HttpStream::Send { content, .. }) => content.chunk().len(),
        _ => 0,
    };
    let message = match &item.ws_message {
        Some(WsMessage::Send { content, .. }) => content.len(),
        _ => 0,
    };
    let meta: usize = item.meta.iter().map(|(k, v)| k.len() + v.len()).sum();
    let ids = 64 * item.stands_for.len();
    EMPTY + ids + item.channel.as_str().len() + response + stream + message + meta
}
