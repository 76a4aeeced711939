//! BLAKE3 digests of bytes and of labelled fields.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Above this many bytes a digest is computed on all cores; below, threads cost more than they save.
const PARALLEL_FROM: usize = 1 << 20;

/// A BLAKE3 digest; written as `blake3:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of `bytes`, on all cores where they are many.
    pub fn of(bytes: &[u8]) -> Digest {
        if bytes.len() < PARALLEL_FROM {
            return Digest(*blake3::hash(bytes).as_bytes());
        }
        let mut h = blake3::Hasher::new();
        h.update_rayon(bytes);
        Digest(*h.finalize().as_bytes())
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// All 64 hex digits, without the prefix.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `blake3:` followed by 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest (`blake3:` and 64 hex digits)")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseDigestError(s.to_owned());
        let hex = s.strip_prefix("blake3:").ok_or_else(wrong)?;
        let hash = blake3::Hash::from_hex(hex).map_err(|_| wrong())?;
        Ok(Digest(*hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest of bytes that come piece by piece.
#[derive(Debug, Default)]
pub struct DigestWriter(blake3::Hasher);

impl DigestWriter {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        if piece.len() >= PARALLEL_FROM {
            self.0.update_rayon(piece);
        } else {
            self.0.update(piece);
        }
    }

    /// The digest of all pieces.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// So many bytes of fields are kept before they are hashed together: most lists of fields are short, and a hasher takes longer to set up and
/// to be told of each part than it takes for all of them at once.
const KEPT: usize = 16 << 10;

/// Hashes labelled fields so that no two different field lists give the same bytes:
/// every label and value goes in with its length before it.
pub struct LabelledHasher {
    /// What is not hashed yet.
    last: Vec<u8>,
    /// What came before it, where that is much.
    before: Option<Box<blake3::Hasher>>,
}

impl LabelledHasher {
    /// A hasher whose first field is the name of the format, e.g. `trtmut.structure/1`.
    pub fn new(format: &str) -> Self {
        let mut h = Self {
            last: Vec::with_capacity(256),
            before: None,
        };
        h.field("format", format.as_bytes());
        h
    }

    pub fn field(&mut self, label: &str, value: &[u8]) -> &mut Self {
        for part in [label.as_bytes(), value] {
            self.last
                .extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.last.extend_from_slice(part);
        }
        if self.last.len() > KEPT {
            self.before.get_or_insert_default().update(&self.last);
            self.last.clear();
        }
        self
    }

    /// The digest of everything added so far.
    pub fn finish(&self) -> Digest {
        let Some(before) = &self.before else {
            return Digest::of(&self.last);
        };
        let mut all = before.clone();
        all.update(&self.last);
        Digest(*all.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_leads_back_and_wrong_text_is_refused() {
        let d = Digest::of(b"x");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert!("blake3:00".parse::<Digest>().is_err());
        assert!(d.hex().parse::<Digest>().is_err());
    }

    #[test]
    fn parallel_and_plain_hashing_agree() {
        let bytes = vec![7u8; PARALLEL_FROM + 3];
        assert_eq!(Digest::of(&bytes).0, *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn fields_are_hashed_as_they_stand_in_a_row() {
        for length in [0, 1, 100, KEPT - 10, KEPT, 2 * KEPT + 1] {
            let (mut h, mut row) = (LabelledHasher::new("f"), Vec::new());
            let value = vec![5; length];
            let add = |row: &mut Vec<u8>, label: &[u8], value: &[u8]| {
                for part in [label, value] {
                    row.extend_from_slice(&(part.len() as u64).to_le_bytes());
                    row.extend_from_slice(part);
                }
            };
            add(&mut row, b"format", b"f");
            for _ in 0..9 {
                assert_eq!(h.finish().0, *blake3::hash(&row).as_bytes());
                h.field("label", &value);
                add(&mut row, b"label", &value);
            }
            assert_eq!(h.finish().0, *blake3::hash(&row).as_bytes());
        }
    }

    #[test]
    fn field_borders_count() {
        let a = LabelledHasher::new("f").field("ab", b"c").finish();
        let b = LabelledHasher::new("f").field("a", b"bc").finish();
        assert_ne!(a, b);
    }
}
