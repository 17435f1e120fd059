//! Next links: one request for all streams that wait for the same answer.

use std::collections::VecDeque;
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grip::ChannelName;
use grip::fields::GRIPLINE_STALE;
use grip::instruct::Instruct;
use http::header::HeaderMap;
use http::{Method, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::Errands;
use super::send::Question;
use crate::errand::{Behalf, Last, LinkError, Linked, News, Next, Receipt, Urgency};
use crate::mailbox::{ConnectionKey, ShardId};
use crate::proxy::{Links, is_encoded, way};

/// How long a request that is not urgent waits for others like it.
const GATHER: Duration = Duration::from_millis(100);
/// Requests that are not urgent, begun in one such time.
const PER_GATHER: usize = 100;
/// Attempts after the first; the wait before them doubles, beginning with a second.
const RETRIES: u32 = 5;
/// How long an origin may take to answer, and to go on with a body.
const DEADLINE: Duration = Duration::from_mins(1);
/// How long one client may keep others that share a body waiting.
const STALL: Duration = Duration::from_secs(10);

/// Whether anybody still waits for a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    None,
    Some,
}

type Member = (ShardId, ConnectionKey);

/// What makes two requests the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FetchKey {
    uri: Uri,
    /// Sorted.
    last: Vec<Last>,
    route: Arc<str>,
    /// Channels that the answer's hold gets besides its own.
    implicit: Vec<ChannelName>,
}

/// Requests that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: FxHashMap<FetchKey, Waiting>,
    /// Not begun; the oldest first. Some may have been begun since.
    queue: VecDeque<(Instant, FetchKey)>,
    is_pacing: bool,
}

#[derive(Debug)]
struct Waiting {
    behalf: Arc<Behalf>,
    members: Vec<Member>,
    stage: Stage,
}

/// How far a request without answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Wanted,
    Queued,
    Begun,
}

impl Errands {
    /// Adds a stream to those that wait for a link's answer.
    pub(super) fn follow(
        self: &Rc<Self>,
        member: Member,
        behalf: Arc<Behalf>,
        next: Next,
        mut last: Vec<Last>,
        urgency: Urgency,
    ) {
        last.sort_unstable();
        let key = FetchKey {
            uri: next.uri,
            last,
            route: Arc::clone(&behalf.route.id),
            implicit: behalf.implicit.clone(),
        };
        let mut fetches = self.fetches.borrow_mut();
        let Fetches { waiting, queue, .. } = &mut *fetches;
        let fetch = waiting.entry(key.clone()).or_insert_with(|| Waiting {
            behalf,
            members: Vec::new(),
            stage: Stage::Wanted,
        });
        fetch.members.push(member);
        match (fetch.stage, urgency) {
            (Stage::Wanted | Stage::Queued, Urgency::High) => {
                fetch.stage = Stage::Begun;
                self.begin_fetch(key, Arc::clone(&fetch.behalf));
            }
            (Stage::Wanted, Urgency::Low) => {
                fetch.stage = Stage::Queued;
                queue.push_back((Instant::now() + GATHER, key));
                if !fetches.is_pacing {
                    fetches.is_pacing = true;
                    tokio::task::spawn_local(Rc::clone(self).pace());
                }
            }
            (Stage::Queued | Stage::Begun, _) => {}
        }
    }

    /// Begins what is queued, some at a time.
    async fn pace(self: Rc<Self>) {
        loop {
            let due = match self.fetches.borrow_mut() {
                fetches if !fetches.queue.is_empty() => fetches.queue[0].0,
                mut fetches => {
                    fetches.is_pacing = false;
                    return;
                }
            };
            tokio::time::sleep_until(due).await;
            let mut begun = 0;
            while begun < PER_GATHER
                && let Some((key, behalf)) = self.fetches.borrow_mut().next_due(Instant::now())
            {
                self.begin_fetch(key, behalf);
                begun += 1;
            }
            if begun == PER_GATHER {
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    fn begin_fetch(self: &Rc<Self>, key: FetchKey, behalf: Arc<Behalf>) {
        tokio::task::spawn_local(Rc::clone(self).fetch(key, behalf));
    }

    async fn fetch(self: Rc<Self>, key: FetchKey, behalf: Arc<Behalf>) {
        let answer = self.retrieve(&key, &behalf).await;
        let fetch = self.fetches.borrow_mut().waiting.remove(&key);
        let members = fetch.map(|fetch| fetch.members).unwrap_or_default();
        let read = answer.and_then(|response| {
            let (response, asked_at) = response;
            let linked = self.linked(&response, (&key.uri, asked_at), &behalf)?;
            Ok((response, linked))
        });
        match read {
            Ok((response, linked)) => {
                let linked = Arc::new(linked);
                self.tell(&members, || News::Linked(Arc::clone(&linked)));
                self.pass_on(response.into_body(), &members).await;
            }
            Err(error) => {
                tracing::warn!(uri = %key.uri, %error, "a link cannot be followed");
                self.tell(&members, || News::Failed(error.clone()));
            }
        }
    }

    /// The first answer of success, after some attempts.
    async fn retrieve(
        &self,
        key: &FetchKey,
        behalf: &Behalf,
    ) -> Result<(Response<Incoming>, std::time::Instant), LinkError> {
        for attempt in 0..=RETRIES {
            if attempt > 0 {
                tokio::time::sleep(back_off(key, attempt)).await;
            }
            let question = Question {
                method: Method::GET,
                uri: &key.uri,
                headers: HeaderMap::new(),
                last: &key.last,
                body: Bytes::new(),
            };
            let uri = &key.uri;
            let asked_at = Instant::now().into_std();
            match tokio::time::timeout(DEADLINE, self.send(behalf, question)).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    return Ok((response, asked_at));
                }
                Ok(Ok(response)) => {
                    tracing::info!(%uri, status = %response.status(), "a link was refused");
                }
                Ok(Err(error)) => tracing::info!(%uri, %error, "a link has no answer"),
                Err(_) => tracing::info!(%uri, "a link has no answer in time"),
            }
        }
        Err(LinkError::Retrieve)
    }

    fn linked(
        &self,
        response: &Response<Incoming>,
        (uri, asked_at): (&Uri, std::time::Instant),
        behalf: &Behalf,
    ) -> Result<Linked, LinkError> {
        let headers = response.headers();
        if grip::instruct::has_instruct_type(headers) {
            return Err(LinkError::Form);
        }
        if is_encoded(headers) {
            return Err(LinkError::Encoded);
        }
        let mut instruct = Instruct::from_headers(headers, &self.config.limits.grip)?;
        if headers.contains_key(GRIPLINE_STALE) {
            // A backup copy may be older than anything that is known.
            self.counters.stale_answers.increment();
            for channel in &mut instruct.channels {
                channel.prev_id = None;
            }
        }
        let links = Links::of(&instruct, uri)?;
        Ok(Linked {
            instruct,
            next: links.next,
            behalf: Arc::new(Behalf {
                route: Arc::clone(&behalf.route),
                uri: uri.clone(),
                way: way(behalf, uri),
                implicit: behalf.implicit.clone(),
                tells_errors: behalf.tells_errors,
            }),
            asked_at,
        })
    }

    /// Passes a body on at the speed of the slowest stream that waits for it.
    async fn pass_on(&self, mut body: Incoming, members: &[Member]) {
        loop {
            let frame = match tokio::time::timeout(DEADLINE, body.frame()).await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                // Broken, or silent for too long.
                Ok(Some(Err(_))) | Err(_) => return self.tell(members, || News::Broken),
            };
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
                && self.pass_piece(data, members).await == Interest::None
            {
                return;
            }
        }
        self.tell(members, || News::Complete);
    }

    async fn pass_piece(&self, data: Bytes, members: &[Member]) -> Interest {
        let mut ended = Vec::new();
        self.tell(members, || {
            let (receipt, end) = Receipt::new();
            ended.push(end);
            News::Body(data.clone(), receipt)
        });
        let mut interest = Interest::None;
        for mut end in ended {
            // One client alone may take its time.
            let taken = if members.len() == 1 {
                end.await
            } else if let Ok(taken) = tokio::time::timeout(STALL, &mut end).await {
                taken
            } else {
                self.tell(members, || News::Stalled);
                end.await
            };
            if taken.is_ok() {
                interest = Interest::Some;
            }
        }
        interest
    }

    /// Reports to the members of each shard.
    fn tell(&self, members: &[Member], mut news: impl FnMut() -> News) {
        for (index, _) in self.reports.iter().enumerate() {
            let keys: Vec<ConnectionKey> = members
                .iter()
                .filter(|(shard, _)| shard.0 == index)
                .map(|(_, key)| *key)
                .collect();
            if !keys.is_empty() {
                self.report(ShardId(index), keys, news());
            }
        }
    }
}

impl Fetches {
    /// The next request of the queue whose time has come.
    fn next_due(&mut self, now: Instant) -> Option<(FetchKey, Arc<Behalf>)> {
        while let Some((due, _)) = self.queue.front()
            && *due <= now
        {
            let (_, key) = self.queue.pop_front()?;
            if let Some(fetch) = self.waiting.get_mut(&key)
                && fetch.stage == Stage::Queued
            {
                fetch.stage = Stage::Begun;
                return Some((key, Arc::clone(&fetch.behalf)));
            }
        }
        None
    }
}

/// The wait before an attempt: a second, doubled each time, and up to a second more, so that many
/// hubs do not come back together.
fn back_off(key: &FetchKey, attempt: u32) -> Duration {
    let mut hasher = rustc_hash::FxHasher::default();
    (key, attempt, std::process::id()).hash(&mut hasher);
    let jitter = hasher.finish() % 1000;
    Duration::from_secs(1 << (attempt - 1)) + Duration::from_millis(jitter)
}
