//! The cases of `fixtures/cases`: situations that users were in, each a few command lines and what must come of them. One trial a case.

mod index;
mod judge;
mod play;
mod prepare;

use crate::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let trials = index::cases().into_iter().map(|case| {
        Trial::test(format!("{}/{}", case.group, case.id), move || {
            play::play(&case).map_err(Into::into)
        })
    });
    trials.collect()
}
