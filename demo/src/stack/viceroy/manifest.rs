//! The `fastly.toml` that one Viceroy runs with.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;
use toml::{Table, Value};

use crate::stack::repository;

/// Name of the edge's config store and of its secret store.
const STORE: &str = "gripline";
/// The one entry of the config store, JSON.
const CONFIG_ENTRY: &str = "edge";

/// A copy of the repository's `fastly.toml`, changed for one run.
#[derive(Debug, Clone)]
pub struct Manifest {
    table: Table,
}

impl Manifest {
    /// The manifest that the edge is deployed with.
    pub fn of_repository() -> anyhow::Result<Self> {
        let path = repository().join("fastly.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let table = text.parse()?;
        Ok(Self { table })
    }

    /// Sends what the edge sends to backend `name` to this URL; the other settings stay.
    #[must_use]
    pub fn with_backend(mut self, name: &str, url: &str) -> Self {
        let backend = table_at(&mut self.table, &["local_server", "backends", name]);
        backend.insert("url".to_owned(), url.into());
        self
    }

    /// Takes away backend `name`: nothing can be sent to a port that is not ours.
    #[must_use]
    pub fn without_backend(mut self, name: &str) -> Self {
        table_at(&mut self.table, &["local_server", "backends"]).remove(name);
        self
    }

    /// Sets a secret, such as `grip-key`, to this text.
    #[must_use]
    pub fn with_secret(mut self, key: &str, secret: &str) -> Self {
        let entry = Table::from_iter([("key", key), ("data", secret)].map(pair));
        let mut entries = self.take_secrets(key);
        entries.push(entry.into());
        self.put_secrets(entries);
        self
    }

    /// Takes away a secret, as if it had never been configured.
    #[must_use]
    pub fn without_secret(mut self, key: &str) -> Self {
        let entries = self.take_secrets(key);
        self.put_secrets(entries);
        self
    }

    /// Changes the edge's configuration: members of `changes` replace or join those in the file.
    ///
    /// # Errors
    /// If the configuration in the file is no JSON object, or kept in a file of its own.
    pub fn with_config(
        mut self,
        changes: serde_json::Map<String, serde_json::Value>,
    ) -> anyhow::Result<Self> {
        let path = ["local_server", "config_stores", STORE, "contents"];
        let contents = table_at(&mut self.table, &path);
        let old = match contents.get(CONFIG_ENTRY) {
            Some(Value::String(text)) => text,
            Some(_) => bail!("the entry {CONFIG_ENTRY} of config store {STORE} is no text"),
            None => "{}",
        };
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(old)
            .with_context(|| format!("the entry {CONFIG_ENTRY} of config store {STORE}"))?;
        config.extend(changes);
        let config = serde_json::to_string(&config)?;
        contents.insert(CONFIG_ENTRY.to_owned(), config.into());
        Ok(self)
    }

    /// The whole manifest, for changes that have no method of their own.
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Writes the manifest to a file that is removed with the returned value.
    pub(super) fn write(&self) -> anyhow::Result<NamedTempFile> {
        let text = toml::to_string(&self.table).context("cannot write the manifest as TOML")?;
        let mut file = tempfile::Builder::new()
            .prefix("gripline-")
            .suffix(".toml")
            .tempfile()
            .context("cannot make a file for the manifest")?;
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", file.path().display()))?;
        Ok(file)
    }

    /// The secret entries other than those named `key`.
    fn take_secrets(&mut self, key: &str) -> Vec<Value> {
        let stores = table_at(&mut self.table, &["local_server", "secret_stores"]);
        let Some(Value::Array(mut entries)) = stores.remove(STORE) else {
            return Vec::new();
        };
        entries.retain(|entry| entry.get("key").and_then(Value::as_str) != Some(key));
        entries
    }

    fn put_secrets(&mut self, entries: Vec<Value>) {
        let stores = table_at(&mut self.table, &["local_server", "secret_stores"]);
        stores.insert(STORE.to_owned(), entries.into());
    }
}

fn pair((key, value): (&str, &str)) -> (String, Value) {
    (key.to_owned(), value.into())
}

/// The table at `path`; whatever is missing on the way, or is no table, becomes an empty one.
fn table_at<'a>(table: &'a mut Table, path: &[&str]) -> &'a mut Table {
    path.iter().fold(table, |table, &key| {
        let value = table.entry(key).or_insert_with(|| Table::new().into());
        if !value.is_table() {
            *value = Table::new().into();
        }
        value.as_table_mut().expect("made a table just above")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = r#"
name = "gripline-edge"
[local_server.backends.origin]
url = "http://127.0.0.1:8080/"
first_byte_timeout_ms = 10000
[local_server.backends.self]
url = "http://127.0.0.1:7676/"
[local_server.config_stores.gripline]
format = "inline-toml"
[local_server.config_stores.gripline.contents]
edge = '{"mode":"hub-front","pass_ttl":120}'
[[local_server.secret_stores.gripline]]
key = "grip-key"
env = "GRIPLINE_GRIP_KEY"
[[local_server.secret_stores.gripline]]
key = "purge-key"
env = "GRIPLINE_PURGE_KEY"
"#;

    fn manifest() -> Manifest {
        Manifest::parse(FILE).unwrap()
    }

    /// The local server's settings, as Viceroy will read them back from the file.
    #[track_caller]
    fn check(manifest: &Manifest, path: &[&str], expected: &serde_json::Value) {
        let file = manifest.write().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let table: Table = text.parse().unwrap();
        let table = serde_json::to_value(table).unwrap();
        let found = path.iter().fold(&table["local_server"], |at, key| &at[key]);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn a_backend_keeps_its_other_settings() {
        let manifest = manifest().with_backend("origin", "http://127.0.0.1:1");
        check(
            &manifest,
            &["backends", "origin"],
            &json!({"url": "http://127.0.0.1:1", "first_byte_timeout_ms": 10000}),
        );
    }

    #[test]
    fn a_backend_can_be_added_or_taken_away() {
        let manifest = manifest()
            .with_backend("hub", "http://127.0.0.1:2")
            .without_backend("self")
            .without_backend("origin");
        check(
            &manifest,
            &["backends"],
            &json!({"hub": {"url": "http://127.0.0.1:2"}}),
        );
    }

    #[test]
    fn a_secret_replaces_the_one_of_the_file() {
        let manifest = manifest()
            .with_secret("grip-key", "s3cret")
            .without_secret("purge-key");
        check(
            &manifest,
            &["secret_stores", "gripline"],
            &json!([{"key": "grip-key", "data": "s3cret"}]),
        );
    }

    #[test]
    fn configuration_is_merged() {
        let changes = json!({"pass_ttl": 1, "hub": "hub"});
        let manifest = manifest()
            .with_config(changes.as_object().unwrap().clone())
            .unwrap();
        check(
            &manifest,
            &["config_stores", "gripline", "contents", "edge"],
            &json!(r#"{"hub":"hub","mode":"hub-front","pass_ttl":1}"#),
        );
        check(
            &manifest,
            &["config_stores", "gripline", "format"],
            &json!("inline-toml"),
        );
    }

    #[test]
    fn configuration_that_is_no_json_is_refused() {
        let text = FILE.replace(r#"{"mode":"hub-front","pass_ttl":120}"#, "nonsense");
        let manifest = Manifest::parse(&text).unwrap();
        let error = manifest.with_config(serde_json::Map::new()).unwrap_err();
        assert!(error.to_string().contains("config store gripline"));
    }
}
