//! The decision table, written once more as text, against every single change, every pair and every third triple.

use super::*;
use crate::tensor::{Digest, Dtype, Extent, TensorDecl};

/// Reason tag, verdict, change: what a person would write on a wall.
const TABLE: &str = "
    none                 LIVE            side nothing
    bytes-changed        NEEDS_REFIT     w0 bytes
    bytes-changed        NEEDS_REFIT     w1 bytes
    derived-changed      NEEDS_REFIT     folded bytes
    fixed-changed        NEEDS_RECOMPILE fixed bytes
    baked-changed        NEEDS_RECOMPILE clip bytes
    shape-like-changed   NEEDS_RECOMPILE target bytes
    none                 LIVE            unused bytes
    dtype-changed        NEEDS_RECOMPILE w2 dtype
    shape-changed        NEEDS_RECOMPILE w3 shape
    weight-added         NEEDS_RECOMPILE extra added
    weight-removed       NEEDS_RECOMPILE w4 removed
    weight-renamed       LIVE            w5 renamed
    sharing-changed      NEEDS_RECOMPILE w6 shared
    metadata-changed     LIVE            graph metadata
    topology-changed     NEEDS_RECOMPILE graph node-added
    topology-changed     NEEDS_RECOMPILE graph rewired
    attribute-changed    NEEDS_RECOMPILE graph stride
    opset-changed        NEEDS_RECOMPILE graph opset
    interface-changed    NEEDS_RECOMPILE graph input-dtype
    interface-changed    NEEDS_RECOMPILE graph output-added
    structure-changed    NEEDS_RECOMPILE graph unseen
    option-changed       NEEDS_RECOMPILE option precision
    option-changed       NEEDS_RECOMPILE option removed
    backend-changed      NEEDS_RECOMPILE maker backend
    library-changed      NEEDS_RECOMPILE maker library
    device-changed       NEEDS_RECOMPILE maker gpu
    device-changed       NEEDS_RECOMPILE maker new-property
    shapes-inside        LIVE            shapes narrower
    shapes-outside       NEEDS_RECOMPILE shapes wider
";

fn fact(name: &str, kind: Kind) -> WeightFact {
    WeightFact {
        name: name.into(),
        dtype: if name == "target" {
            Dtype::I64
        } else {
            Dtype::F32
        },
        shape: vec![4, 4],
        digest: Digest::of(name.as_bytes()),
        kind,
        uses: Some(1),
        derived_from: Vec::new(),
    }
}

fn decl(name: &str) -> TensorDecl {
    TensorDecl {
        name: name.into(),
        dtype: Dtype::F32,
        dims: Some(vec![Extent::Symbol("B".into()), Extent::Fixed(4)]),
    }
}

fn node(operator: &str, place: &str) -> NodeFact {
    NodeFact {
        operator: operator.into(),
        name: place.into(),
        place: Digest::of(place.as_bytes()),
        attributes: vec![("strides".into(), Digest::of(b"1"))],
    }
}

fn spec(max: u64) -> Resolved {
    let text = format!(
        r#"{{"dims": {{"B": {{"min": 1, "opt": 2, "max": {max}}}}}, "args": [], "kwargs": {{"x": {{"0": "B"}}}}}}"#
    );
    let spec = crate::shapes::ShapeSpec::parse(&text, "test").unwrap();
    spec.resolve(&[decl("x")], &crate::shapes::Overrides::default())
        .unwrap()
}

fn side() -> Side {
    let mut weights: Vec<WeightFact> = (0..7)
        .map(|i| fact(&format!("w{i}"), Kind::Weight))
        .collect();
    let why = || "input 1 of Clip: a bound".to_owned();
    weights.push(WeightFact {
        derived_from: vec!["conv.weight".into(), "bn.weight".into()],
        ..fact("folded", Kind::Weight)
    });
    weights.push(fact(
        "fixed",
        Kind::Fixed {
            why: "quantised".into(),
        },
    ));
    weights.push(fact("clip", Kind::Baked { why: why() }));
    weights.push(fact("target", Kind::Baked { why: why() }));
    weights.push(fact("unused", Kind::Unused));
    Side {
        graph: Some(Graph {
            structure: Digest::of(b"structure"),
            summary: Some(Summary {
                opsets: [(String::new(), 17)].into(),
                inputs: vec![decl("x")],
                outputs: vec![decl("y")],
                nodes: vec![node("Conv", "a"), node("Conv", "b"), node("Clip", "c")],
                metadata: Digest::of(b"names"),
            }),
        }),
        weights,
        shapes: Some(spec(8)),
        options: Some(
            [
                ("opt-level".to_owned(), "3".to_owned()),
                ("tf32".into(), "on".into()),
            ]
            .into(),
        ),
        maker: Some(Maker {
            backend: "tensorrt".into(),
            library: "TensorRT 8.6.0".into(),
            device: [("gpu".to_owned(), "H200".to_owned())].into(),
        }),
    }
}

/// Makes one change to a side.
fn apply(side: &mut Side, subject: &str, what: &str) {
    let at = side.weights.iter().position(|w| w.name == subject);
    let other = Digest::of(format!("{subject} {what}").as_bytes());
    if subject == "graph" {
        let graph = side.graph.as_mut().unwrap();
        let summary = graph.summary.as_mut().unwrap();
        if what != "metadata" {
            // Any structural change gives another digest, several of them a third.
            let mut all = graph.structure.0.to_vec();
            all.extend(other.0);
            graph.structure = Digest::of(&all);
        }
        match what {
            "metadata" => summary.metadata = other,
            "node-added" => summary.nodes.push(node("Relu", "d")),
            "rewired" => summary.nodes[0].place = other,
            "stride" => {
                summary.nodes[1].attributes[0].1 = other;
            }
            "opset" => {
                summary.opsets.insert(String::new(), 18);
            }
            "input-dtype" => summary.inputs[0].dtype = Dtype::F16,
            "output-added" => summary.outputs.push(decl("z")),
            "unseen" => {}
            _ => panic!("{what}"),
        }
        return;
    }
    match (subject, what) {
        (_, "nothing") => {}
        (_, "bytes") => side.weights[at.unwrap()].digest = other,
        (_, "dtype") => side.weights[at.unwrap()].dtype = Dtype::F16,
        (_, "shape") => side.weights[at.unwrap()].shape = vec![4, 5],
        (_, "added") => side.weights.push(fact(subject, Kind::Weight)),
        ("w4", "removed") => {
            side.weights.remove(at.unwrap());
        }
        (_, "renamed") => side.weights[at.unwrap()].name = "renamed".into(),
        (_, "shared") => side.weights[at.unwrap()].uses = Some(2),
        ("option", "precision") => {
            side.options
                .as_mut()
                .unwrap()
                .insert("precision".into(), "fp16".into());
        }
        ("option", "removed") => {
            side.options.as_mut().unwrap().remove("tf32");
        }
        ("maker", "backend") => side.maker.as_mut().unwrap().backend = "cpu".into(),
        ("maker", "library") => side.maker.as_mut().unwrap().library = "TensorRT 11".into(),
        ("maker", "gpu") => {
            side.maker
                .as_mut()
                .unwrap()
                .device
                .insert("gpu".into(), "L4".into());
        }
        ("maker", "new-property") => {
            side.maker
                .as_mut()
                .unwrap()
                .device
                .insert("driver".into(), "580".into());
        }
        ("shapes", "narrower") => side.shapes = Some(spec(4)),
        ("shapes", "wider") => side.shapes = Some(spec(16)),
        _ => panic!("{subject} {what}"),
    }
}

struct Line {
    tag: &'static str,
    verdict: Verdict,
    subject: &'static str,
    what: &'static str,
}

fn lines() -> Vec<Line> {
    TABLE
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| {
            let mut words = l.split_whitespace();
            let mut next = || words.next().unwrap();
            let (tag, verdict, subject, what) = (next(), next(), next(), next());
            let verdict = match verdict {
                "LIVE" => Verdict::Live,
                "NEEDS_REFIT" => Verdict::NeedsRefit,
                "NEEDS_RECOMPILE" => Verdict::NeedsRecompile,
                other => panic!("{other}"),
            };
            Line {
                tag,
                verdict,
                subject,
                what,
            }
        })
        .collect()
}

fn diff_of(changes: &[&Line]) -> Diff {
    let mut new = side();
    for line in changes {
        apply(&mut new, line.subject, line.what);
    }
    compare(&side(), &new)
}

/// Reasons that others stand in for: with another topology, attributes and sharing cannot be told apart from it; what no
/// summary shows is silent where something else is shown; two specs cannot both be asked for.
fn hidden(changes: &[&Line], line: &Line) -> bool {
    let rewired = changes.iter().any(|l| l.tag == "topology-changed");
    let shown = changes.iter().any(|l| {
        l.tag != "structure-changed"
            && (l.subject == "graph" && l.what != "metadata"
                || matches!(
                    l.tag,
                    "baked-changed" | "shape-like-changed" | "dtype-changed"
                )
                || matches!(l.tag, "shape-changed" | "weight-added" | "weight-removed"))
    });
    let structural = changes
        .iter()
        .any(|l| l.subject == "graph" && l.what != "metadata");
    match line.tag {
        "attribute-changed" | "sharing-changed" => rewired,
        "structure-changed" => shown,
        "metadata-changed" => structural,
        _ => {
            line.subject == "shapes" && changes.iter().filter(|l| l.subject == "shapes").count() > 1
        }
    }
}

fn check(changes: &[&Line]) {
    let diff = diff_of(changes);
    let label: Vec<String> = changes
        .iter()
        .map(|l| format!("{} {}", l.subject, l.what))
        .collect();
    let last_spec = changes.iter().rposition(|l| l.subject == "shapes");
    let expected = (changes.iter().enumerate())
        .filter(|(i, l)| l.subject != "shapes" || last_spec == Some(*i))
        .map(|(_, l)| l.verdict)
        .max()
        .unwrap();
    assert_eq!(diff.verdict, expected, "{label:?}: {:?}", diff.reasons);
    let counts = diff.counts();
    for line in changes
        .iter()
        .filter(|l| l.tag != "none" && !hidden(changes, l))
    {
        assert!(
            counts.contains_key(line.tag),
            "{label:?}: {:?}",
            diff.reasons
        );
    }
    assert_eq!(
        diff.verdict,
        diff.reasons
            .iter()
            .map(Reason::verdict)
            .max()
            .unwrap_or(Verdict::Live)
    );
}

#[test]
fn the_table_holds_for_single_changes_pairs_and_triples() {
    let all = lines();
    let mut cases = 0;
    for (i, a) in all.iter().enumerate() {
        check(&[a]);
        let alone = diff_of(&[a]).verdict;
        for (j, b) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            if a.subject == b.subject && a.subject != "graph" && a.what == b.what {
                continue;
            }
            check(&[a, b]);
            // A further change never makes the verdict milder, but for a second spec, which replaces the first.
            if !(a.subject == "shapes" && b.subject == "shapes") {
                assert!(diff_of(&[a, b]).verdict >= alone, "{} {}", a.what, b.what);
            }
            cases += 1;
            for c in all.iter().skip(j + 1).step_by(3) {
                if c.subject != a.subject && c.subject != b.subject {
                    check(&[a, b, c]);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases >= 500, "{cases}");
}

#[test]
fn what_is_not_asked_for_is_not_compared_and_what_is_not_known_is_said() {
    let old = side();
    let asked_nothing = Side {
        weights: old.weights.clone(),
        ..Side::default()
    };
    assert_eq!(compare(&old, &asked_nothing).verdict, Verdict::Live);
    let unknown = Side {
        weights: old.weights.clone(),
        ..Side::default()
    };
    let diff = compare(&unknown, &side());
    let counts = diff.counts();
    assert!(counts.contains_key("graph-unknown") && counts.contains_key("shapes-unknown"));
    let blind = Side {
        options: None,
        ..unknown
    };
    let only_graph = Side {
        graph: side().graph,
        weights: old.weights.clone(),
        ..Side::default()
    };
    assert_eq!(compare(&blind, &only_graph).verdict, Verdict::Unknown);
}

#[test]
fn without_summaries_the_digest_still_decides() {
    let bare = |structure: &[u8]| {
        let mut side = side();
        side.graph = Some(Graph {
            structure: Digest::of(structure),
            summary: None,
        });
        side
    };
    assert_eq!(compare(&bare(b"a"), &bare(b"a")).verdict, Verdict::Live);
    let diff = compare(&bare(b"a"), &bare(b"b"));
    assert_eq!(diff.reasons, [Reason::StructureChanged]);
}

#[test]
fn reasons_have_stable_json() {
    let reason = Reason::Unsure {
        weight: "w".into(),
        why: crate::mapping::Refusal::Ambiguous {
            sources: vec!["a".into(), "b".into()],
        },
    };
    assert_eq!(
        serde_json::to_string(&reason).unwrap(),
        r#"{"reason":"unsure","weight":"w","refusal":"ambiguous","sources":["a","b"]}"#
    );
    let diff = compare(&side(), &side());
    assert_eq!(diff.verdict.name(), "LIVE");
    assert_eq!(
        serde_json::to_string(&Verdict::NeedsRecompile).unwrap(),
        r#""NEEDS_RECOMPILE""#
    );
    for line in lines() {
        let diff = diff_of(&[&line]);
        let text = serde_json::to_string(&diff).unwrap();
        assert_eq!(serde_json::from_str::<Diff>(&text).unwrap(), diff);
    }
}

#[test]
fn real_models_differ_from_others_and_not_from_themselves() {
    use crate::onnx::Model;
    let open = |file: &str| {
        let root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Model::open(root.join("fixtures").join(file)).unwrap()
    };
    let side = |model: &Model| Side {
        graph: Some(Graph::of(model)),
        weights: weight_facts(model, |name| {
            let weight = model.weight(name)?;
            Some(Digest::of(&model.bytes(weight)))
        }),
        ..Side::default()
    };
    let clip = side(&open("clip_text/model.ts.onnx"));
    let again = compare(&clip, &side(&open("clip_text/model.ts.onnx")));
    assert_eq!((again.verdict, again.reasons.len()), (Verdict::Live, 0));
    assert_eq!(again.unchanged, again.compared);
    let other = compare(&clip, &side(&open("clip_text/model.dynamo.onnx")));
    let counts = other.counts();
    assert_eq!(other.verdict, Verdict::NeedsRecompile);
    for tag in [
        "topology-changed",
        "opset-changed",
        "weight-removed",
        "weight-added",
    ] {
        assert!(counts.contains_key(tag), "{counts:?}");
    }
    let resnet = compare(&clip, &side(&open("resnet/model.ts.onnx")));
    assert!(resnet.counts().contains_key("interface-changed"));
}

#[test]
fn no_recompile_cures_a_change_that_is_lost() {
    let of = |reason| Diff::of(vec![reason], 0, 1);
    let recompile = || {
        of(Reason::ShapesOutside {
            details: Vec::new(),
        })
    };
    let lost = of(Reason::NothingFits).and(recompile());
    assert_eq!(lost.verdict, Verdict::Unknown);
    assert_eq!(recompile().and(lost).verdict, Verdict::Unknown);
    // What an old manifest does not say is no question once it is compiled anew.
    let unsaid = of(Reason::GraphUnknown).and(recompile());
    assert_eq!(unsaid.verdict, Verdict::NeedsRecompile);
}
