//! A remote cache of a build without the feature `remote`: there is none, so that nothing but opening one can be tried.

use super::{Existing, Pulled, Pushed, RemoteFault, RemoteSettings};
use crate::cache::{BuildLock, Hit, Key, Record, Store};
use crate::watch::Watch;
use std::convert::Infallible;

/// Cannot be had.
#[derive(Debug)]
pub struct Remote(Infallible);

impl Remote {
    /// # Errors
    /// Always [`RemoteFault::LeftOut`].
    pub fn open(_: &str, _: RemoteSettings) -> Result<Remote, RemoteFault> {
        Err(RemoteFault::LeftOut)
    }

    pub fn url(&self) -> &str {
        match self.0 {}
    }

    pub fn keys(&self) -> Result<Vec<Key>, RemoteFault> {
        match self.0 {}
    }

    pub fn resolve(&self, _: &str) -> Result<Key, RemoteFault> {
        match self.0 {}
    }

    pub fn record(&self, _: Key) -> Result<Option<Record>, RemoteFault> {
        match self.0 {}
    }

    pub fn fetch(&self, _: &BuildLock<'_>, _: &dyn Watch) -> Result<Option<Hit>, RemoteFault> {
        match self.0 {}
    }

    pub fn pull(&self, _: &Store, _: Key, _: &dyn Watch) -> Result<Pulled, RemoteFault> {
        match self.0 {}
    }

    pub fn push(&self, _: &Hit, _: Existing, _: &dyn Watch) -> Result<Pushed, RemoteFault> {
        match self.0 {}
    }
}
