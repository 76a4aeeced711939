//! Which column of numbers describes a library, and how that is known. A new release is data alone: ARCHITECTURE.md says where.

use super::numbers::{COLUMNS, RELEASES};
use super::{Column, Product, Version};
use std::fmt;

/// A release as the tables know it: two columns that both have to say the same, which are one and the same where the release's
/// own headers were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub(super) low: usize,
    pub(super) high: usize,
    /// How the columns were chosen.
    pub basis: Basis,
}

/// How the numbers of a release are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// From its own headers.
    Exact,
    /// From those of its neighbours, as far as both agree.
    Between(Version, Version),
    /// The user says that this release's numbers hold.
    Assumed(Version),
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Basis::Exact => f.write_str("its own headers"),
            Basis::Between(low, high) => {
                write!(f, "what the headers of {low} and {high} agree on")
            }
            Basis::Assumed(version) => write!(f, "assumed to be called as {version} is"),
        }
    }
}

/// Why a release is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTable {
    #[error("it is older than {oldest}, the oldest release that can be driven")]
    Older {
        /// The first with a table.
        oldest: Version,
    },
    /// After the last of its line.
    #[error(
        "it is newer than {newest}, the newest such release whose headers were read, and calling it by those could crash or do \
         something else; TRTMUT_ASSUME_TENSORRT={newest} tries that"
    )]
    Newer {
        /// The last with a table that calls in the same way.
        newest: Version,
    },
    /// `TRTMUT_ASSUME_TENSORRT` names no release with a table.
    #[error("TRTMUT_ASSUME_TENSORRT is `{given}`, which is no release of {} whose headers were read; {newest} is the newest",
        product.title())]
    Assumption {
        given: String,
        product: Product,
        /// The last with a table.
        newest: Version,
    },
}

/// The releases of a product with their columns, oldest first.
fn known(product: Product) -> impl DoubleEndedIterator<Item = (Version, usize)> + Clone {
    RELEASES
        .iter()
        .copied()
        .filter(move |(_, column)| COLUMNS[*column].product == product)
}

impl Release {
    /// How many releases of a product are known by their own headers, the oldest and the newest of them.
    pub fn range(product: Product) -> (usize, Version, Version) {
        let mut all = known(product);
        let none = Version::new(0, 0, 0);
        let first = all.next().map_or(none, |(v, _)| v);
        let count = all.clone().count() + 1;
        (count, first, all.next_back().map_or(first, |(v, _)| v))
    }

    /// The release `version`, or `assume` (`11.4`, `10.16.1`) where nothing is known of it.
    ///
    /// # Errors
    /// See [`NoTable`].
    pub fn of(
        product: Product,
        version: Version,
        assume: Option<&str>,
    ) -> Result<Release, NoTable> {
        let below = known(product).rfind(|(v, _)| *v <= version);
        let above = known(product).find(|(v, _)| *v > version);
        let refused = match (below, above) {
            (Some((v, column)), _) if v == version => {
                return Ok(Release::single(column, Basis::Exact));
            }
            (Some((low, a)), Some((high, b))) if COLUMNS[a] == COLUMNS[b] => {
                return Ok(Release {
                    low: a,
                    high: b,
                    basis: Basis::Between(low, high),
                });
            }
            (Some((newest, _)), _) => NoTable::Newer { newest },
            (None, oldest) => NoTable::Older {
                oldest: oldest.map_or(version, |(v, _)| v),
            },
        };
        let (Some(given), NoTable::Newer { newest }) = (assume, &refused) else {
            return Err(refused);
        };
        let numbers: Option<Vec<u32>> = given.split('.').map(|p| p.parse().ok()).collect();
        let column = numbers.and_then(|n| match n[..] {
            [major, minor] => known(product).rfind(|(v, _)| {
                let (a, b, _) = v.parts();
                (a, b) == (major, minor)
            }),
            [major, minor, patch] => {
                known(product).find(|(v, _)| v.parts() == (major, minor, patch))
            }
            _ => None,
        });
        match column {
            Some((version, column)) => Ok(Release::single(column, Basis::Assumed(version))),
            None => Err(NoTable::Assumption {
                given: given.into(),
                product,
                newest: *newest,
            }),
        }
    }

    const fn single(column: usize, basis: Basis) -> Release {
        Release {
            low: column,
            high: column,
            basis,
        }
    }

    /// How it calls and is called; both columns have the same.
    pub fn form(self) -> &'static Column {
        &COLUMNS[self.low]
    }
}
