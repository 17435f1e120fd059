//! What a subscription's filters make of an item: drop it, change its content, or ask the origin.
//!
//! Knows metadata, channel names and bytes; does not know connections, and sends nothing: a filter
//! that needs an HTTP request gives it as an [`Inquiry`]. Read [`Filter`] first, then [`run`].

#![expect(
    clippy::similar_names,
    reason = "content and context are what filters are about"
)]

mod build_id;
mod inquiry;
mod template;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::StatusCode;

pub use build_id::{BodyFilter, filter_body};
pub use inquiry::{Inquiry, InquiryFailure, InquiryKind, MAX_REPLY_BODY, Reply};
pub use template::{TemplateError, TemplateFault};

/// A filter that does something; GRIP `Grip-Channel` parameter `filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Keeps items from who sent them.
    SkipSelf,
    /// Keeps items from users that the item names.
    SkipUsers,
    /// Keeps items from connections without a channel that the item names.
    RequireSub,
    /// Writes the ids of the connection's channels into content and initial bodies.
    BuildId,
    /// Writes subscription metadata into content.
    VarSubst,
    /// Asks the origin whether to deliver.
    HttpCheck,
    /// Asks the origin whether to deliver, and what.
    HttpModify,
}

impl Filter {
    /// Every filter, in the order in which `Grip-Feature` lists them.
    pub const ALL: [Self; 7] = [
        Self::SkipSelf,
        Self::SkipUsers,
        Self::RequireSub,
        Self::BuildId,
        Self::VarSubst,
        Self::HttpCheck,
        Self::HttpModify,
    ];

    /// The filter of this name. Unknown names have none and do nothing.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| filter.name() == name)
    }

    /// The name in instructions, content filters and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::SkipSelf => "skip-self",
            Self::SkipUsers => "skip-users",
            Self::RequireSub => "require-sub",
            Self::BuildId => "build-id",
            Self::VarSubst => "var-subst",
            Self::HttpCheck => "http-check",
            Self::HttpModify => "http-modify",
        }
    }

    /// Whether it may change content, so that a publisher has to write for it.
    pub fn acts_on_content(self) -> bool {
        matches!(self, Self::BuildId | Self::VarSubst | Self::HttpModify)
    }

    fn error(self, fault: FilterFault) -> FilterError {
        FilterError {
            filter: self,
            fault,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What filters may look at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Metadata of the subscription; GRIP `Grip-Set-Meta`.
    pub subscription_meta: &'a BTreeMap<String, String>,
    /// Metadata of the item; empty for an initial body.
    pub item_meta: &'a BTreeMap<String, String>,
    /// The connection's channels, without a route's prefix, each with its current id: for an item,
    /// the id after it. `None` is a channel without known id.
    pub channels: &'a [(&'a str, Option<&'a str>)],
}

impl<'a> Context<'a> {
    fn of_subscription(&self, name: &str) -> Option<&'a str> {
        self.subscription_meta.get(name).map(String::as_str)
    }

    fn of_item(&self, name: &str) -> Option<&'a str> {
        self.item_meta.get(name).map(String::as_str)
    }

    /// Who is connected, if the subscription says so.
    fn user(&self) -> Option<&'a str> {
        self.of_subscription("user").filter(|user| !user.is_empty())
    }

    fn has_channel(&self, name: &str) -> bool {
        self.channels.iter().any(|(channel, _)| *channel == name)
    }

    fn id_of(&self, name: &str) -> Option<&'a str> {
        let (_, id) = self.channels.iter().find(|(channel, _)| *channel == name)?;
        *id
    }
}

/// How far filters have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The item is not for this connection.
    Drop,
    /// All filters have run; the content as they leave it.
    Deliver(Bytes),
    /// The origin decides; afterwards [`run`] goes on from [`Inquiry::next`].
    Ask(Inquiry),
}

/// Why a filter can neither deliver nor drop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{filter}: {fault}")]
pub struct FilterError {
    /// Which filter.
    pub filter: Filter,
    /// What is wrong.
    pub fault: FilterFault,
}

/// What is wrong with a filter's input. The texts are those of the reference proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterFault {
    /// The subscription does not say how ids are built.
    #[error("no sub meta 'id_format'")]
    IdFormatMissing,
    /// The subscription's `id_format` is no template, or a channel's id is not known.
    #[error("failed to render ID: {0}")]
    IdFormat(TemplateError),
    /// The subscription's `id_encoding` is not `hex`.
    #[error("unsupported encoding: {0}")]
    IdEncoding(String),
    /// The content is no template.
    #[error("{0}")]
    Content(TemplateError),
    /// The subscription does not say whom to ask.
    #[error("missing url value")]
    UrlMissing,
    /// No answer came.
    #[error("{0}")]
    Unanswered(InquiryFailure),
    /// An answer came whose status means nothing here.
    #[error("unexpected network request status: code={}", .0.as_u16())]
    Status(StatusCode),
    /// The content in the answer is longer than it may be.
    #[error("network response exceeded {0} bytes")]
    ReplyTooLarge(usize),
}

/// Runs `filters` from the one at `from` until one drops, asks or fails.
///
/// Begin with 0, also for actions without content: they can be dropped like an item with content.
pub fn run(
    filters: &[Filter],
    from: usize,
    mut content: Bytes,
    context: &Context<'_>,
) -> Result<Step, FilterError> {
    for (at, filter) in filters.iter().enumerate().skip(from) {
        match filter {
            Filter::SkipSelf if is_own(context) => return Ok(Step::Drop),
            Filter::SkipUsers if is_skipped(context) => return Ok(Step::Drop),
            Filter::RequireSub if lacks_subscription(context) => return Ok(Step::Drop),
            Filter::SkipSelf | Filter::SkipUsers | Filter::RequireSub => {}
            Filter::BuildId => content = build_id::filter_content(content, context)?,
            Filter::VarSubst => content = substitute(content, context)?,
            Filter::HttpCheck => {
                return Inquiry::new(InquiryKind::Check, content, at + 1, context).map(Step::Ask);
            }
            Filter::HttpModify => {
                return Inquiry::new(InquiryKind::Modify, content, at + 1, context).map(Step::Ask);
            }
        }
    }
    Ok(Step::Deliver(content))
}

fn is_own(context: &Context<'_>) -> bool {
    let user = context.user();
    user.is_some() && user == context.of_item("sender")
}

fn is_skipped(context: &Context<'_>) -> bool {
    match (context.user(), context.of_item("skip_users")) {
        (Some(user), Some(skipped)) => skipped.split(',').any(|name| name.trim() == user),
        _ => false,
    }
}

fn lacks_subscription(context: &Context<'_>) -> bool {
    context
        .of_item("require_sub")
        .is_some_and(|channel| !channel.is_empty() && !context.has_channel(channel))
}

fn substitute(content: Bytes, context: &Context<'_>) -> Result<Bytes, FilterError> {
    let names = template::Names(|name: &str| context.of_subscription(name));
    template::render(content, &names)
        .map_err(|error| Filter::VarSubst.error(FilterFault::Content(error)))
}

/// An item's content was written for other filters than the subscription has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFilterMismatch {
    /// The subscription's filters that act on content.
    pub subscription: Vec<Filter>,
    /// The names in the item.
    pub message: Vec<String>,
}

impl std::error::Error for ContentFilterMismatch {}

impl fmt::Display for ContentFilterMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscription: Vec<&str> = self.subscription.iter().map(|one| one.name()).collect();
        write!(
            f,
            "content filter mismatch: subscription={} message={}",
            subscription.join(","),
            self.message.join(",")
        )
    }
}

/// Whether content that was written for the filters `wanted` fits a subscription with `filters`:
/// its filters that act on content are these, in this order. Absent: it fits any.
pub fn check_content_filters(
    filters: &[Filter],
    wanted: Option<&[String]>,
) -> Result<(), ContentFilterMismatch> {
    let acting = || filters.iter().copied().filter(|one| one.acts_on_content());
    match wanted {
        Some(wanted) if !acting().map(Filter::name).eq(wanted) => Err(ContentFilterMismatch {
            subscription: acting().collect(),
            message: wanted.to_vec(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CONTENT: Bytes = Bytes::from_static(b"%(user)s %I");

    /// Metadata as `name=value` words.
    fn meta(words: &[&str]) -> BTreeMap<String, String> {
        let pairs = words.iter().map(|word| word.split_once('=').unwrap());
        pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    fn step(
        filters: &[Filter],
        content: Bytes,
        subscription_meta: &[&str],
        item_meta: &[&str],
    ) -> Result<Step, String> {
        let context = Context {
            subscription_meta: &meta(subscription_meta),
            item_meta: &meta(item_meta),
            channels: &[("news", Some("7")), ("fresh", None)],
        };
        run(filters, 0, content, &context).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_have_names_and_unknown_names_have_no_filter() {
        for filter in Filter::ALL {
            assert_eq!(Filter::named(filter.name()), Some(filter));
        }
        for unknown in ["", "skip", "Skip-Self", "skip-self ", "build_id"] {
            assert_eq!(Filter::named(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn three_filters_act_on_content() {
        let acting = Filter::ALL.map(|filter| (filter.name(), filter.acts_on_content()));
        assert_eq!(
            acting,
            [
                ("skip-self", false),
                ("skip-users", false),
                ("require-sub", false),
                ("build-id", true),
                ("var-subst", true),
                ("http-check", false),
                ("http-modify", true),
            ]
        );
    }

    /// Whether the filter drops; if not, it leaves the content alone.
    #[track_caller]
    fn check_drop(filter: Filter, subscription_meta: &[&str], item_meta: &[&str], drops: bool) {
        let expected = if drops {
            Step::Drop
        } else {
            Step::Deliver(CONTENT)
        };
        let found = step(&[filter], CONTENT, subscription_meta, item_meta);
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn skip_self_drops_what_the_user_sent() {
        let filter = Filter::SkipSelf;
        check_drop(filter, &["user=ada"], &["sender=ada"], true);
        check_drop(filter, &["user=ada"], &["sender=Ada"], false);
        check_drop(filter, &["user=ada"], &["sender=ada "], false);
        check_drop(filter, &["user=ada"], &["sender=bob"], false);
        check_drop(filter, &["user=ada"], &["user=ada"], false);
        check_drop(filter, &["user=ada"], &[], false);
        check_drop(filter, &[], &["sender=ada"], false);
        check_drop(filter, &[], &[], false);
        check_drop(filter, &["user="], &["sender="], false);
    }

    #[test]
    fn skip_users_drops_for_the_users_listed() {
        let filter = Filter::SkipUsers;
        check_drop(filter, &["user=ada"], &["skip_users=ada"], true);
        check_drop(filter, &["user=ada"], &["skip_users=bob, ada ,eve"], true);
        check_drop(filter, &["user=ada"], &["skip_users=bob,\tada"], true);
        check_drop(filter, &["user=ada"], &["skip_users=ada b,adab,Ada"], false);
        check_drop(filter, &["user=ada"], &["skip_users="], false);
        check_drop(filter, &["user=ada"], &["skip-users=ada"], false);
        check_drop(filter, &["user=ada"], &[], false);
        check_drop(filter, &["user="], &["skip_users=,bob"], false);
        check_drop(filter, &[], &["skip_users=ada"], false);
        check_drop(filter, &["user=a,b"], &["skip_users=a,b"], false);
    }

    #[test]
    fn require_sub_drops_without_that_channel() {
        let filter = Filter::RequireSub;
        check_drop(filter, &[], &["require_sub=other"], true);
        check_drop(filter, &[], &["require_sub=News"], true);
        check_drop(filter, &[], &["require_sub=news"], false);
        check_drop(filter, &[], &["require_sub=fresh"], false);
        check_drop(filter, &[], &["require_sub="], false);
        check_drop(filter, &[], &[], false);
        check_drop(filter, &["require_sub=other"], &[], false);
    }

    #[track_caller]
    fn check_content(
        filters: &[Filter],
        subscription_meta: &[&str],
        content: &'static str,
        expected: Result<&'static str, &str>,
    ) {
        let found = step(filters, content.into(), subscription_meta, &["name=item"]);
        let expected = expected.map(|text| Step::Deliver(text.into()));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn var_subst_writes_subscription_metadata() {
        let filters = &[Filter::VarSubst];
        let meta = &["name=Ada", "empty=", "a)b=odd", "looped=%(name)s"];
        check_content(filters, meta, "hi %(name)s, 5%%", Ok("hi Ada, 5%"));
        check_content(filters, meta, "[%(empty)s]", Ok("[]"));
        check_content(filters, meta, r"%(a\)b)s", Ok("odd"));
        check_content(filters, meta, "%(looped)s", Ok("%(name)s"));
        check_content(filters, meta, "", Ok(""));
    }

    #[test]
    fn var_subst_fails_with_what_it_does_not_know() {
        for (content, expected) in [
            ("%(x)s", "var-subst: No such variable 'x' at position 4"),
            (
                "%s",
                "var-subst: Directive 's' requires argument at position 1",
            ),
            ("%I", "var-subst: Unknown directive 'I' at position 1"),
            (
                "5%",
                "var-subst: Expected directive after '%' at position 1",
            ),
            (
                "%(name",
                "var-subst: Unterminated field starting at position 1",
            ),
        ] {
            check_content(&[Filter::VarSubst], &[], content, Err(expected));
        }
    }

    #[test]
    fn build_id_writes_ids() {
        let meta = &["id_format=%(news)s"];
        check_content(&[Filter::BuildId], meta, "id: %I", Ok("id: 7"));
        let missing = Err("build-id: no sub meta 'id_format'");
        check_content(&[Filter::BuildId], &[], "", missing);
    }

    #[test]
    fn filters_run_in_the_order_given() {
        use Filter::{BuildId, VarSubst};
        let meta = &["id_format=<%(news)s>", "v=%I"];
        check_content(&[VarSubst, BuildId], meta, "%(v)s %%I", Ok("<7> <7>"));
        check_content(&[BuildId, VarSubst], meta, "%I %%(v)s", Ok("<7> %I"));
        check_content(&[BuildId, BuildId], meta, "%%I", Ok("<7>"));
        check_content(&[], meta, "%", Ok("%"));
    }

    #[test]
    fn the_first_drop_or_error_decides() {
        use Filter::{HttpCheck, SkipSelf, VarSubst};
        let step = |filters| step(filters, "%".into(), &["user=a"], &["sender=a"]);
        assert_eq!(step(&[SkipSelf, VarSubst, HttpCheck]), Ok(Step::Drop));
        let error = Err("var-subst: Expected directive after '%' at position 0".to_owned());
        assert_eq!(step(&[VarSubst, SkipSelf]), error);
        let error = Err("http-check: missing url value".to_owned());
        assert_eq!(step(&[HttpCheck, SkipSelf]), error);
    }

    #[test]
    fn after_a_reply_the_next_filter_goes_on_with_its_content() {
        let subscription_meta = meta(&["url=/ask", "v=x"]);
        let context = Context {
            subscription_meta: &subscription_meta,
            item_meta: &BTreeMap::new(),
            channels: &[],
        };
        let filters = [Filter::VarSubst, Filter::HttpModify, Filter::VarSubst];
        let step = run(&filters, 0, Bytes::from_static(b"%(v)s"), &context);
        let Ok(Step::Ask(inquiry)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(inquiry.kind, InquiryKind::Modify);
        assert_eq!(inquiry.content, "x");
        assert_eq!(inquiry.next, 2);
        let body = Bytes::from_static(b"[%(v)s]");
        let step = run(&filters, inquiry.next, body.clone(), &context);
        assert_eq!(step, Ok(Step::Deliver(Bytes::from_static(b"[x]"))));
        assert_eq!(
            run(&filters, 3, body.clone(), &context),
            Ok(Step::Deliver(body))
        );
    }

    #[test]
    fn http_check_asks_too() {
        let step = step(&[Filter::HttpCheck], CONTENT, &["url=/ask"], &[]);
        let Ok(Step::Ask(inquiry)) = step else {
            panic!("{step:?}");
        };
        assert_eq!((inquiry.kind, inquiry.next), (InquiryKind::Check, 1));
        assert_eq!(inquiry.content, CONTENT);
    }

    #[track_caller]
    fn check_match(filters: &[Filter], wanted: Option<&[&str]>, expected: Result<(), &str>) {
        let wanted: Option<Vec<String>> =
            wanted.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let found = check_content_filters(filters, wanted.as_deref());
        assert_eq!(
            found.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned)
        );
    }

    #[test]
    fn content_is_for_the_filters_it_was_written_for() {
        use Filter::{BuildId, HttpCheck, HttpModify, SkipSelf, VarSubst};
        check_match(&[], None, Ok(()));
        check_match(&[BuildId], None, Ok(()));
        check_match(&[], Some(&[]), Ok(()));
        check_match(&[SkipSelf, HttpCheck], Some(&[]), Ok(()));
        check_match(&[SkipSelf, BuildId], Some(&["build-id"]), Ok(()));
        check_match(
            &[HttpModify, SkipSelf, VarSubst],
            Some(&["http-modify", "var-subst"]),
            Ok(()),
        );
    }

    #[test]
    fn other_content_filters_are_a_mismatch() {
        use Filter::{BuildId, SkipSelf, VarSubst};
        for (filters, wanted, expected) in [
            (&[BuildId][..], &[][..], "subscription=build-id message="),
            (&[SkipSelf], &["build-id"], "subscription= message=build-id"),
            (
                &[SkipSelf],
                &["skip-self"],
                "subscription= message=skip-self",
            ),
            (
                &[BuildId, SkipSelf, VarSubst],
                &["var-subst", "build-id"],
                "subscription=build-id,var-subst message=var-subst,build-id",
            ),
            (
                &[BuildId, VarSubst],
                &["build-id"],
                "subscription=build-id,var-subst message=build-id",
            ),
            (
                &[BuildId],
                &["build-id", "other"],
                "subscription=build-id message=build-id,other",
            ),
        ] {
            let expected = format!("content filter mismatch: {expected}");
            check_match(filters, Some(wanted), Err(&expected));
        }
    }
}
