//! `entry.json`: what an entry was when it was stored.

use super::fault::Damage;
use super::{Key, KeyFields};
use crate::tensor::{Digest, LabelledHasher};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Format and version of the record.
pub(super) const FORMAT: &str = "trtmut.cache-entry/1";

/// Longest record that is read. Profiles of models with hundreds of inputs stay far below.
pub(super) const LONGEST: u64 = 4 << 20;

/// Length and digest of a stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub bytes: u64,
    /// BLAKE3 of the bytes.
    pub digest: Digest,
}

/// What an entry holds, as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the entry depends on.
    pub fields: KeyFields,
    pub plan: Part,
    pub manifest: Part,
    /// When it was stored, nanoseconds since 1970.
    pub created_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'t> {
    #[serde(borrow)]
    format: Cow<'t, str>,
    #[serde(borrow)]
    key: Cow<'t, str>,
    fields: KeyFields,
    plan: Part,
    manifest: Part,
    created_ns: u64,
    /// Digest of everything above, so that a flipped bit in any value is found.
    seal: Digest,
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    format: String,
}

impl Record {
    /// The key of its fields.
    pub fn key(&self) -> Key {
        self.fields.key()
    }

    /// The contents of `entry.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(&self.wire()).expect("text and numbers are JSON");
        json.push(b'\n');
        json
    }

    /// The same in one line.
    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(&self.wire()).expect("text and numbers are JSON")
    }

    fn wire(&self) -> Wire<'static> {
        Wire {
            format: FORMAT.into(),
            key: self.key().to_string().into(),
            fields: self.fields.clone(),
            plan: self.plan,
            manifest: self.manifest,
            created_ns: self.created_ns,
            seal: self.seal(),
        }
    }

    /// Reads what [`Record::to_line`] wrote for the entry `name`, from where it is known to be unchanged: the seal, which takes
    /// longer than the reading, is not compared.
    pub(super) fn of_line(line: &[u8], name: &str) -> Option<Record> {
        let wire: Wire<'_> = serde_json::from_slice(line).ok()?;
        (wire.format == FORMAT && wire.key == name).then_some(Record {
            fields: wire.fields,
            plan: wire.plan,
            manifest: wire.manifest,
            created_ns: wire.created_ns,
        })
    }

    /// Reads and checks a record that should be `key`'s.
    pub(super) fn parse(json: &[u8], key: Key) -> Result<Record, Damage> {
        let unreadable = |e: serde_json::Error| Damage::Record { why: e.to_string() };
        let Wire {
            format,
            key: found,
            fields,
            plan,
            manifest,
            created_ns,
            seal,
        } = serde_json::from_slice(json).map_err(|e| {
            // A newer version may have other fields; then its version is what there is to say.
            match serde_json::from_slice::<Version>(json) {
                Ok(v) if v.format != FORMAT => Damage::Format { found: v.format },
                _ => unreadable(e),
            }
        })?;
        if format != FORMAT {
            return Err(Damage::Format {
                found: format.into_owned(),
            });
        }
        let record = Record {
            fields,
            plan,
            manifest,
            created_ns,
        };
        let own = record.key();
        if record.seal() != seal || Key::parse(&found) != Some(own) {
            return Err(Damage::Seal);
        }
        if own != key {
            return Err(Damage::Key {
                found: found.into_owned(),
            });
        }
        Ok(record)
    }

    fn seal(&self) -> Digest {
        let mut hasher = LabelledHasher::new(FORMAT);
        for (label, value) in self.fields.iter() {
            hasher.field(label, value.as_bytes());
        }
        for part in [self.plan, self.manifest] {
            hasher.field("bytes", &part.bytes.to_le_bytes());
            hasher.field("digest", &part.digest.0);
        }
        hasher.field("created_ns", &self.created_ns.to_le_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let part = |bytes: &[u8]| Part {
            bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
        };
        Record {
            fields: KeyFields::new()
                .with("structure", "s")
                .with("profile", "x:1..4"),
            plan: part(b"plan"),
            manifest: part(b"{}"),
            created_ns: 17,
        }
    }

    #[test]
    fn leads_back() {
        let r = record();
        assert_eq!(Record::parse(&r.to_json(), r.key()).unwrap(), r);
    }

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing() {
        let r = record();
        let json = r.to_json();
        for bit in 0..json.len() * 8 {
            let mut flipped = json.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(same) = Record::parse(&flipped, r.key()) {
                assert_eq!(same, r, "bit {bit}");
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let r = record();
        let json = r.to_json();
        // The last byte is a line end, which says nothing.
        for length in 0..json.len() - 1 {
            let e = Record::parse(&json[..length], r.key()).unwrap_err();
            assert!(matches!(e, Damage::Record { .. }), "{length}: {e}");
        }
    }

    #[test]
    fn other_versions_and_other_keys_are_told_apart() {
        let r = record();
        let text = String::from_utf8(r.to_json()).unwrap();
        let newer = text
            .replace("cache-entry/1", "cache-entry/2")
            .replace("\"created_ns\"", "\"born\"");
        let e = Record::parse(newer.as_bytes(), r.key()).unwrap_err();
        assert_eq!(
            e,
            Damage::Format {
                found: "trtmut.cache-entry/2".into()
            }
        );
        let other = KeyFields::new().with("structure", "t").key();
        let e = Record::parse(&r.to_json(), other).unwrap_err();
        assert_eq!(
            e,
            Damage::Key {
                found: r.key().to_string()
            }
        );
    }
}
