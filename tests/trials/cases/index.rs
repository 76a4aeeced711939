//! The form of `fixtures/cases/cases.json`. A field that is not known here is an error, so that no expectation is passed over.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// Exit codes of a command that declined to do something.
pub const REFUSALS: [i32; 3] = [1, 20, 30];

/// A situation, and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub group: String,
    /// What a failure means to the user; shown with it.
    pub why: String,
    pub steps: Vec<Vec<String>>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// One a step.
    pub expect: Vec<Expect>,
}

/// What must be true after a step.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The exit codes that are right; see `codes`.
    #[serde(deserialize_with = "one_or_more")]
    exit: Option<Vec<i32>>,
    pub refused: bool,
    /// Whether a refusal must leave the plan and its manifest; so it is where nothing is said.
    pub plan_unchanged: Option<bool>,
    pub or_refused: Option<Refusal>,
    pub message_has: Vec<String>,
    pub message_lacks: Vec<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub verdict: Option<Vec<String>>,
    pub agrees_with: Option<usize>,
    pub keeps: Vec<String>,
    pub modes: BTreeMap<String, String>,
    pub json: bool,
    pub same_json: Option<String>,
    /// Input name -> `[min, max]` of each axis.
    pub ranges: BTreeMap<String, Value>,
    pub outputs: Option<String>,
    pub prefix: String,
    pub rel_l2: Option<f64>,
    /// File name of the saved outputs, `out.safetensors` where nothing is said.
    pub saved: Option<String>,
    /// File name of the plan, `p.plan` where nothing is said.
    pub plan: Option<String>,
}

/// A refusal that is right as well.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refusal {
    #[serde(deserialize_with = "one_or_more")]
    exit: Option<Vec<i32>>,
    pub message_has: Vec<String>,
    pub message_lacks: Vec<String>,
}

impl Expect {
    /// The exit codes that are right.
    pub fn codes(&self) -> Vec<i32> {
        match &self.exit {
            Some(codes) => codes.clone(),
            None if self.refused => REFUSALS.to_vec(),
            None => vec![0],
        }
    }
}

impl Refusal {
    /// The exit codes that count as this refusal.
    pub fn codes(&self) -> Vec<i32> {
        self.exit.clone().unwrap_or(REFUSALS.to_vec())
    }
}

/// `x` or `[x, …]`.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(Some(match Form::deserialize(deserializer)? {
        Form::One(one) => vec![one],
        Form::More(more) => more,
    }))
}

/// The folder of the cases.
pub fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases");
    folder.canonicalize().expect("fixtures/cases is there")
}

/// All cases. Panics where the list contradicts itself.
pub fn cases() -> Vec<Case> {
    let text = fs::read(folder().join("cases.json")).expect("cases.json can be read");
    let cases: Vec<Case> = serde_json::from_slice(&text).expect("cases.json is a list of cases");
    let mut ids = BTreeSet::new();
    for case in &cases {
        let id = &case.id;
        assert!(ids.insert(id), "two cases are called {id}");
        assert_eq!(
            case.steps.len(),
            case.expect.len(),
            "{id}: an expectation a step"
        );
        for (n, expect) in case.expect.iter().enumerate() {
            assert!(
                expect.agrees_with.is_none_or(|other| other < n),
                "{id}: step {n} agrees with an earlier one"
            );
        }
    }
    cases
}
