//! The last word to an origin whose client went before its WebSocket was open.

use std::cell::OnceCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use grip::websocket::over_http::{AnswerFields, OverHttp};
use http::header::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use uuid::Uuid;

use super::super::Proxy;
use crate::exchange::ExchangeError;
use crate::handshake::Handshake;
use crate::routes::WebSocketTransport;

/// Tells an origin that a client is gone, when it is dropped.
#[derive(Debug)]
pub(crate) struct Farewell {
    queue: mpsc::UnboundedSender<Gone>,
    /// There until it is dropped or forgotten.
    gone: Option<Gone>,
}

/// A WebSocket that the origin has opened, and its client does not want any more.
#[derive(Debug)]
struct Gone {
    handshake: Handshake,
    /// Of the answer that opened it.
    fields: AnswerFields,
}

/// Where farewells go. Whoever drops one may be anywhere, so it cannot say it by itself.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Farewells(OnceCell<mpsc::UnboundedSender<Gone>>);

impl Farewell {
    /// Leaves it to somebody else.
    pub(crate) fn forget(mut self) {
        self.gone = None;
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            // Fails only when the shard is gone.
            let _ = self.queue.send(gone);
        }
    }
}

impl Proxy {
    /// What to say if the client of this WebSocket is gone.
    pub(super) fn farewell(
        self: &Rc<Self>,
        handshake: &Handshake,
        fields: AnswerFields,
    ) -> Farewell {
        let queue = self.farewells.0.get_or_init(|| {
            let (sender, queue) = mpsc::unbounded_channel();
            tokio::task::spawn_local(say_farewells(Rc::downgrade(self), queue));
            sender
        });
        Farewell {
            queue: queue.clone(),
            gone: Some(Gone {
                handshake: handshake.clone(),
                fields,
            }),
        }
    }

    /// Sends `DISCONNECT`, again and again if the origin is not reached.
    async fn say_farewell(&self, gone: Gone) {
        let Gone { handshake, fields } = gone;
        let WebSocketTransport::OverHttp(events) = handshake.target().websocket else {
            return;
        };
        let mut over_http = OverHttp::new(events, &fields, now());
        over_http.vanish();
        while !over_http.is_over() {
            let Some(request) = over_http.poll_request(now()) else {
                match over_http.poll_timeout() {
                    Some(at) => time::sleep_until(at.into()).await,
                    None => return,
                }
                continue;
            };
            let mut meta = HeaderMap::new();
            for (name, value) in over_http.meta() {
                meta.append(name.clone(), value.clone());
            }
            match self.exchange_events(&handshake, request, meta).await {
                // Whatever it says, nobody is there to hear it; but what makes no sense is no
                // answer, and would be asked for again and again.
                Ok((fields, body)) => {
                    if over_http.handle_answer(&fields, &body, now()).is_err() {
                        over_http.handle_failed();
                    }
                }
                Err(ExchangeError::Unsent(_)) => {
                    if over_http.handle_unsent(now(), jitter()).is_err() {
                        return;
                    }
                }
                Err(ExchangeError::Failed(_)) => over_http.handle_failed(),
            }
        }
    }
}

async fn say_farewells(proxy: Weak<Proxy>, mut queue: mpsc::UnboundedReceiver<Gone>) {
    while let Some(gone) = queue.recv().await {
        let Some(proxy) = proxy.upgrade() else {
            return;
        };
        tokio::task::spawn_local(async move { proxy.say_farewell(gone).await });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Less than a second, so that retries for many clients don't come at once.
fn jitter() -> Duration {
    let [_, byte, .., other] = *Uuid::new_v4().as_bytes();
    Duration::from_millis(u64::from(u16::from_be_bytes([byte, other])) % 1000)
}
