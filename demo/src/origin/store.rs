//! Where counters outlive the process: a redb file.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::counter::{Count, CounterName};

const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// The counters on disk. Every call may block on the file system.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened as a store.
    #[error("cannot open the counters in {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The file was opened, but a transaction failed.
    #[error("cannot use the store")]
    Transaction(#[source] Box<redb::Error>),
}

impl StoreError {
    fn transaction(error: impl Into<redb::Error>) -> Self {
        Self::Transaction(Box::new(error.into()))
    }
}

impl Store {
    /// Opens the store in `path`; creates the file and its directory if they are missing.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_or_create(path).map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    fn open_or_create(path: &Path) -> Result<Self, redb::Error> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let database = Database::create(path)?;
        // A read transaction cannot open a table that was never written.
        let transaction = database.begin_write()?;
        transaction.open_table(COUNTERS)?;
        transaction.commit()?;
        Ok(Self { database })
    }

    /// The current value; zero for a counter that was never incremented.
    pub(super) fn count(&self, name: &CounterName) -> Result<Count, StoreError> {
        let read = || -> Result<u64, redb::Error> {
            let table = self.database.begin_read()?.open_table(COUNTERS)?;
            Ok(table.get(name.as_str())?.map_or(0, |value| value.value()))
        };
        let value = read().map_err(StoreError::transaction)?;
        let name = name.clone();
        Ok(Count { name, value })
    }

    /// Adds one; the new value is on disk when this returns.
    pub(super) fn increment(&self, name: &CounterName) -> Result<Count, StoreError> {
        let write = || -> Result<u64, redb::Error> {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(COUNTERS)?;
            let value = table.get(name.as_str())?.map_or(0, |value| value.value());
            let value = value.saturating_add(1);
            table.insert(name.as_str(), value)?;
            drop(table);
            transaction.commit()?;
            Ok(value)
        };
        let value = write().map_err(StoreError::transaction)?;
        let name = name.clone();
        Ok(Count { name, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CounterName {
        CounterName::parse(text).unwrap()
    }

    #[test]
    fn counters_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("counters.redb");
        let store = Store::open(&path).unwrap();
        assert_eq!(store.increment(&name("a")).unwrap().value, 1);
        assert_eq!(store.increment(&name("a")).unwrap().value, 2);
        assert_eq!(store.increment(&name("b")).unwrap().value, 1);
        drop(store);

        let store = Store::open(&path).unwrap();
        assert_eq!(store.count(&name("a")).unwrap().value, 2);
        assert_eq!(store.increment(&name("a")).unwrap().value, 3);
        assert_eq!(store.count(&name("b")).unwrap().value, 1);
        assert_eq!(store.count(&name("c")).unwrap().value, 0);
    }

    /// What a crash leaves is the file as it is between two calls, without an orderly close.
    #[test]
    fn an_increment_is_on_disk_when_it_returns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counters.redb");
        let store = Store::open(&path).unwrap();
        store.increment(&name("a")).unwrap();
        let copy = directory.path().join("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(
            Store::open(&copy).unwrap().count(&name("a")).unwrap().value,
            1
        );
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "these are not the counters that you are looking for").unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
    }
}
