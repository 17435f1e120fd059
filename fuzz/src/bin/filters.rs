//! Filters: an id format, a line end, and a body, which may come in pieces.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use grip::filter::{self, BodyFilter, Context, Filter, FilterError};
use gripline_fuzz::split_once;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, bytes)) = bytes.split_first() else {
        return;
    };
    let (format, body) = split_once(bytes, b"\n");
    let format = String::from_utf8_lossy(format).into_owned();
    let mut meta = BTreeMap::from([("id_format".to_owned(), format)]);
    if piece % 2 == 1 {
        meta.insert("id_encoding".to_owned(), "hex".to_owned());
    }
    let context = Context {
        subscription_meta: &meta,
        item_meta: &BTreeMap::new(),
        channels: &[("news", Some("7")), ("fresh", None)],
    };
    let whole = filter::filter_body(&[Filter::BuildId], Bytes::copy_from_slice(body), &context);
    assert_eq!(in_pieces(body, 1 + usize::from(piece) / 2, &context), whole);
    let content = Bytes::copy_from_slice(body);
    let filters = [Filter::VarSubst, Filter::BuildId];
    let _ = filter::run(&filters, 0, content, &context);
});

fn in_pieces(body: &[u8], length: usize, context: &Context<'_>) -> Result<Bytes, FilterError> {
    let mut filter = BodyFilter::new(&[Filter::BuildId], context)?.expect("build-id acts");
    let mut made = Vec::new();
    for piece in body.chunks(length) {
        made.extend_from_slice(&filter.push(Bytes::copy_from_slice(piece))?);
    }
    filter.finish()?;
    Ok(Bytes::from(made))
}
