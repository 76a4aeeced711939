//! Plans that change together, killed before each rename and each removal: the next command on any of them finds all of them old, or
//! all of them new.

use super::traced::killed_before;
use super::{Place, fixture};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use trtmut::plan;

/// Three plans of one model, in two folders; one is reached by a link.
const PLANS: [&str; 3] = ["b/engine.plan", "a.plan", "link.plan"];

struct Together {
    place: Place,
}

impl Together {
    fn new() -> Together {
        let place = Place::new();
        assert!(place.refit(0).wait().unwrap().success());
        let at = |name: &str| place.dir.path().join(name);
        fs::create_dir(at("b")).unwrap();
        fs::create_dir(at("store")).unwrap();
        std::os::unix::fs::symlink("store/real.plan", at("link.plan")).unwrap();
        let build = [
            "build",
            "model.ts.onnx",
            "--shapes",
            "shapes.ts.json",
            "--weights",
        ];
        for plan in PLANS {
            let build = [&build[..], &["base.safetensors", "-o", plan]].concat();
            assert!(place.start(&build).wait().unwrap().success());
        }
        Together { place }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
        command
            .args(args)
            .current_dir(self.place.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn refit(&self, state: usize) -> Command {
        let what = ["--base", "fused.safetensors"][state];
        self.command(&[&["refit"], &PLANS[..], &[what]].concat())
    }

    /// Lets another command look at one of the plans, and says in which state all of them are then.
    fn state_after_looking_at(&self, looked_at: &str) -> usize {
        let done = self.command(&["inspect", looked_at]).status().unwrap();
        assert!(done.success(), "`{looked_at}` cannot be opened");
        let names = self.names();
        let left: Vec<&String> = names
            .iter()
            .filter(|n| n.contains(".next") || n.contains(".journal"))
            .collect();
        let states: BTreeSet<usize> = PLANS
            .iter()
            .map(|plan| {
                let manifest = plan::open(&self.at(plan)).unwrap();
                let bytes = fs::read(self.at(plan)).unwrap();
                let state = self.place.states.iter().position(|s| *s == bytes);
                let state = state.expect("a plan is neither the old one nor the new one");
                assert_eq!(manifest.recipe.ingredients.len(), state);
                state
            })
            .collect();
        assert_eq!(states.len(), 1, "some are old and some new; {left:?}");
        let left: Vec<String> = (self.names().into_iter())
            .filter(|n| n.contains(".next") || n.contains(".journal"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(self.at("link.plan").is_symlink());
        states.into_iter().next().unwrap()
    }

    fn names(&self) -> BTreeSet<String> {
        let folders = ["", "b", "store"];
        let entries = folders
            .iter()
            .flat_map(|f| fs::read_dir(self.at(f)).unwrap());
        entries
            .map(|e| e.unwrap().path().display().to_string())
            .collect()
    }
}

#[test]
fn killed_before_any_rename_all_plans_are_old_or_all_are_new() {
    assert!(fixture("model.ts.onnx").exists());
    let together = Together::new();
    let mut state = together.state_after_looking_at("a.plan");
    let (mut nth, mut changed) = (1, 0);
    loop {
        let mut command = together.refit(1 - state);
        let killed = match killed_before(nth, &mut command) {
            Ok(killed) => killed,
            Err(e) if std::env::var_os("CI").is_none() => {
                println!("not run: no process can be traced here: {e}");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let now = together.state_after_looking_at(PLANS[nth % PLANS.len()]);
        changed += usize::from(killed && now != state);
        if !killed {
            assert_eq!(now, 1 - state, "it was not killed and did nothing");
            break;
        }
        state = now;
        nth += 1;
    }
    println!(
        "killed before {} steps, {changed} of them after the decision",
        nth - 1
    );
    // Three journals, six files that wait, one decision, six renames, three journals again.
    assert!(
        nth > 18 && changed >= 8,
        "{nth} steps, {changed} after the decision"
    );
}

#[test]
fn commands_that_name_the_same_plans_in_another_order_do_not_wait_for_each_other() {
    let together = Together::new();
    for round in 0..6 {
        let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0]];
        let mut children: Vec<_> = (orders.iter().enumerate())
            .map(|(i, order)| {
                let what = ["--base", "fused.safetensors"][(i + round) % 2];
                let plans = order.map(|p| PLANS[p]);
                let args = [&["refit"], &plans[..], &[what]].concat();
                together.command(&args).spawn().unwrap()
            })
            .collect();
        for child in &mut children {
            assert!(child.wait().unwrap().success());
        }
        together.state_after_looking_at(PLANS[round % 3]);
    }
}
