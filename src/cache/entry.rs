//! Opening one entry: all of it checked, or a statement of what is wrong with it.

use super::fault::Damage;
use super::folder::{MANIFEST, PLAN, RECORD, is_at};
use super::record::{LONGEST, Record};
use super::{CacheFault, Key, KeyFields, hash};
use crate::fsx::{self, Map};
use crate::tensor::Digest;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How much of an entry is checked before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The plan is read and its digest compared.
    Full,
    /// The plan's length is compared, its bytes are not read. Everything else is checked as with `Full`.
    Trust,
}

/// An entry that was checked and stays readable while this value lives: it is not evicted, and should its folder be
/// replaced or quarantined, the open files are still those that were checked.
#[derive(Debug)]
pub struct Hit {
    pub(super) key: Key,
    pub(super) folder: PathBuf,
    pub(super) record: Record,
    pub(super) manifest: Vec<u8>,
    pub(super) plan: File,
    /// `entry.json`, locked shared so that no other process evicts what is in use.
    pub(super) lock: File,
}

impl Hit {
    pub fn key(&self) -> Key {
        self.key
    }

    /// What it depends on.
    pub fn fields(&self) -> &KeyFields {
        &self.record.fields
    }

    /// Sizes, digests and time of creation, as stored.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// BLAKE3 of the plan.
    pub fn plan_digest(&self) -> Digest {
        self.record.plan.digest
    }

    /// The manifest's bytes, checked.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The plan, mapped. These are the bytes that were checked, whatever happens to the folder meanwhile.
    ///
    /// # Errors
    /// [`fsx::Error::Read`] when it cannot be mapped.
    pub fn plan(&self) -> Result<Map, fsx::Error> {
        Map::of(&self.plan, self.plan_path())
    }

    /// Where the plan lies; for reading only.
    pub fn plan_path(&self) -> PathBuf {
        self.folder.join(PLAN)
    }
}

/// What is at a key's place.
pub(super) enum Outcome {
    Absent,
    Whole(Box<Hit>),
    Damaged {
        damage: Damage,
        /// The folder itself, open: as long as it is, no other folder gets its inode number.
        folder: File,
    },
}

enum Trouble {
    Damage(Damage),
    Fault(CacheFault),
}

/// Opens the entry in `folder` and checks it; `seen` hears how many bytes of the plan were read.
pub(super) fn open(
    folder: &Path,
    key: Key,
    check: Check,
    mut seen: impl FnMut(u64),
) -> Result<Outcome, CacheFault> {
    loop {
        let opened = fsx::open_folder(folder).or_else(|e| match e.kind() {
            // A file where an entry should be is a damaged entry.
            io::ErrorKind::NotADirectory => fsx::open_regular(folder).map_err(|_| e),
            _ => Err(e),
        });
        let handle = match opened {
            Ok(handle) => handle,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Absent),
            Err(e) => return Err(CacheFault::io("open", folder)(e)),
        };
        let damage = match examine(folder, key, check, &mut seen) {
            Ok(hit) => return Ok(Outcome::Whole(Box::new(hit))),
            Err(Trouble::Fault(fault)) => return Err(fault),
            Err(Trouble::Damage(damage)) => damage,
        };
        if is_at(&handle, folder) {
            return Ok(Outcome::Damaged {
                damage,
                folder: handle,
            });
        }
        // The files came from two generations, or from none: somebody replaced or evicted the entry between two steps.
    }
}

fn examine(
    folder: &Path,
    key: Key,
    check: Check,
    seen: &mut dyn FnMut(u64),
) -> Result<Hit, Trouble> {
    let lock = open_part(folder, RECORD)?;
    // An evictor holds it exclusively only while it renames the entry away. Without locks on this file system the open
    // files stay readable all the same.
    let _ = lock.lock_shared();
    if !is_at(&lock, &folder.join(RECORD)) {
        return Err(Trouble::Damage(Damage::Missing { file: RECORD }));
    }
    let json = read_part(folder, RECORD, &lock, LONGEST)?;
    let record = Record::parse(&json, key).map_err(Trouble::Damage)?;

    let file = open_part(folder, MANIFEST)?;
    check_length(&file, folder, MANIFEST, record.manifest.bytes)?;
    let manifest = read_part(folder, MANIFEST, &file, record.manifest.bytes)?;
    if Digest::of(&manifest) != record.manifest.digest {
        return Err(Trouble::Damage(Damage::Digest { file: MANIFEST }));
    }

    let plan = open_part(folder, PLAN)?;
    check_length(&plan, folder, PLAN, record.plan.bytes)?;
    if check == Check::Full {
        let (_, digest) = hash::digest(&plan, seen)
            .map_err(|e| Trouble::Fault(CacheFault::io("read", &folder.join(PLAN))(e)))?;
        if digest != record.plan.digest {
            return Err(Trouble::Damage(Damage::Digest { file: PLAN }));
        }
    }
    Ok(Hit {
        key,
        folder: folder.to_owned(),
        record,
        manifest,
        plan,
        lock,
    })
}

fn open_part(folder: &Path, file: &'static str) -> Result<File, Trouble> {
    let path = folder.join(file);
    fsx::open_regular(&path).map_err(|e| match e {
        fsx::Error::Read { source, .. } => match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => Trouble::Damage(Damage::Missing { file }),
            _ => Trouble::Fault(CacheFault::io("open", &path)(source)),
        },
        _ => Trouble::Damage(Damage::Missing { file }),
    })
}

fn read_part(
    folder: &Path,
    name: &'static str,
    mut file: &File,
    longest: u64,
) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    let read = file.by_ref().take(longest + 1).read_to_end(&mut bytes);
    match read {
        Ok(n) if n as u64 > longest => Err(Trouble::Damage(Damage::Length {
            file: name,
            expected: longest,
            found: n as u64,
        })),
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
            Err(Trouble::Damage(Damage::Missing { file: name }))
        }
        Err(e) => Err(Trouble::Fault(CacheFault::io("read", &folder.join(name))(
            e,
        ))),
    }
}

fn check_length(
    file: &File,
    folder: &Path,
    name: &'static str,
    expected: u64,
) -> Result<(), Trouble> {
    let meta = file
        .metadata()
        .map_err(|e| Trouble::Fault(CacheFault::io("look at", &folder.join(name))(e)))?;
    let damage = if !meta.is_file() {
        Damage::Missing { file: name }
    } else if meta.len() == expected {
        return Ok(());
    } else {
        Damage::Length {
            file: name,
            expected,
            found: meta.len(),
        }
    };
    Err(Trouble::Damage(damage))
}
