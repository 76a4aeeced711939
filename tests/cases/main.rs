//! The cases of `fixtures/cases`: situations that users were in, each a few command lines and what must come of them. One trial a case.

mod index;
mod judge;
mod play;
mod prepare;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let trials = index::cases().into_iter().map(|case| {
        Trial::test(format!("{}/{}", case.group, case.id), move || {
            play::play(&case).map_err(Into::into)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
