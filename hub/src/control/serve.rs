//! Publishers' connections: hyper reads requests by a deadline, warp answers them.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use warp::Filter as _;

use super::{Control, Head, MAX_HEAD_BYTES, query};
use crate::client_io::{self, ClientIo, Gate};
use crate::life::{Life, draining};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a publisher may take for a request's head, and a connection be without a request.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long there is no connection accepted after one could not be.
const PAUSE: Duration = Duration::from_millis(50);

impl Control {
    /// Serves until the hub drains and the requests under way are answered.
    pub(crate) async fn serve(self, listener: TcpListener, mut life: watch::Receiver<Life>) {
        let serving = async {
            let mut connections = JoinSet::new();
            loop {
                let connection_life = life.clone();
                tokio::select! {
                    accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                        Ok((stream, _)) => {
                            connections.spawn_local(self.clone().serve_one(stream, connection_life));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a publisher's connection");
                            tokio::time::sleep(PAUSE).await;
                        }
                    },
                    Some(_) = connections.join_next() => {}
                    () = draining(&mut life) => break,
                }
            }
            // Requests under way are answered; one that never ends is not waited for.
            let ended = async { while connections.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(self.config.drain, ended).await;
        };
        LocalSet::new().run_until(serving).await;
    }

    async fn serve_one(self, stream: TcpStream, mut life: watch::Receiver<Life>) {
        let gate = Rc::new(Gate::default());
        let answering = Rc::clone(&gate);
        let filtered = TowerToHyperService::new(warp::service(self.clone().filter()));
        let service = service_fn(move |request| {
            let answering = answering.begin();
            let answer = filtered.call(request);
            Box::pin(async move {
                let response = answer.await?;
                Ok::<_, Infallible>(response.map(|body| answering.with(body)))
            })
        });
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        let io = ClientIo::new(stream, bytes::Bytes::new(), Rc::clone(&gate));
        let mut connection = builder.serve_connection(TokioIo::new(io), service);
        let mut is_draining = false;
        let served = loop {
            tokio::select! {
                served = std::future::poll_fn(|context| connection.poll_without_shutdown(context)) => break served,
                () = draining(&mut life), if !is_draining => {
                    is_draining = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        let (stream, _) = connection.into_parts().io.into_inner().into_parts();
        match served {
            Err(error) if gate.has_refused() || error.is_parse() => {
                self.counters.control_refused.increment();
                let text = refusal(&error);
                client_io::refuse(stream, text).await;
            }
            _ => client_io::write_and_close(stream, b"").await,
        }
    }

    fn filter(
        self,
    ) -> impl warp::Filter<Extract = (impl warp::Reply,), Error = warp::Rejection> + Clone {
        let head = warp::method()
            .and(warp::path::full())
            .and(query())
            .and(warp::header::headers_cloned())
            .map(|method, path, query, headers| Head {
                method,
                path,
                query,
                headers,
            });
        head.and(warp::body::stream()).then(move |head, body| {
            let control = self.clone();
            async move { control.respond(&head, body).await }
        })
    }
}

/// What a publisher reads whose request hyper could not read.
fn refusal(error: &hyper::Error) -> &'static str {
    tracing::info!(%error, "control request refused");
    if error.is_parse_too_large() {
        return "Request header too large.\n";
    }
    // hyper tells its causes apart in words only.
    if error.to_string().contains("content-length") {
        return "Bad Content-Length.\n";
    }
    "Failed to parse request header.\n"
}
