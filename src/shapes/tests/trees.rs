//! Nested arguments against models whose inputs are named as torch names them: no tensor gets another's range.

use super::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A xorshift generator: the same trees on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.below(from.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[derive(Clone)]
enum Node {
    /// No tensor: `None`, a number, a flag.
    Other,
    /// A tensor, by its number.
    Tensor(usize),
    List(Vec<Node>),
    Dict(Vec<(String, Node)>),
}

/// A tensor of the call.
struct Given {
    /// Its rank; of two axes the first is dynamic, if there is a range.
    rank: usize,
    range: Option<(u64, u64)>,
    /// Whether the spec has a hint with these bounds instead of a dim.
    hint: bool,
}

struct Call {
    /// Names and values of the arguments, positional ones first.
    arguments: Vec<(String, Node)>,
    positional: usize,
    tensors: Vec<Given>,
}

const NAMES: &[&str] = &["a", "b", "c", "a_b", "x", "b_1", "Mixed", "a_b_1"];
const KEYS: &[&str] = &["a", "b", "B", "a_b", "0", "x-y", "1", "c", "x_y"];

fn some_names(random: &mut Random, from: &[&str], most: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..=random.below(most) {
        let name = random.pick(from).to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Call {
    fn new(random: &mut Random) -> Call {
        let names = some_names(random, NAMES, 4);
        let mut call = Call {
            positional: random.below(names.len() + 1),
            arguments: Vec::new(),
            tensors: Vec::new(),
        };
        for name in names {
            let node = call.node(random, 2);
            call.arguments.push((name, node));
        }
        call
    }

    fn node(&mut self, random: &mut Random, depth: usize) -> Node {
        match random.below(100) {
            0..12 => Node::Other,
            12..30 if depth > 0 => Node::List(
                (0..=random.below(3))
                    .map(|_| self.node(random, depth - 1))
                    .collect(),
            ),
            30..60 if depth > 0 => {
                let keys = some_names(random, KEYS, 3);
                Node::Dict(
                    (keys.into_iter())
                        .map(|k| (k, self.node(random, depth - 1)))
                        .collect(),
                )
            }
            _ => {
                let n = self.tensors.len() as u64;
                let dynamic = random.chance(75);
                let rank = if dynamic {
                    2
                } else {
                    [0, 2, 2, 1][random.below(4)]
                };
                self.tensors.push(Given {
                    rank,
                    range: dynamic.then_some((2 + n, 20 + 3 * n)),
                    hint: dynamic && random.chance(20),
                });
                Node::Tensor(self.tensors.len() - 1)
            }
        }
    }

    /// The model's inputs as torch orders and names them, each with its tensor; `None` where torch gives a name twice.
    fn inputs(&self, random: &mut Random) -> Option<Vec<(TensorDecl, usize)>> {
        let mut flat = Vec::new();
        for (name, node) in &self.arguments {
            flatten(node, vec![name.clone()], &mut flat);
        }
        let own_names = random.chance(30);
        let mut namer = Namer::default();
        let mut inputs: Vec<(TensorDecl, usize)> = Vec::new();
        for (path, tensor) in flat {
            let name = namer.name(&path);
            let Some(t) = tensor else { continue };
            let first = match self.tensors[t].range {
                Some(_) if own_names && !self.tensors[t].hint => format!("d{t}"),
                Some(_) => format!("s{}", 70 - t),
                None => "4".into(),
            };
            let dims = [first.as_str(), "4"][..self.tensors[t].rank.min(2)].join(" ");
            if inputs.iter().any(|(i, _)| i.name == name) {
                return None;
            }
            inputs.push((decl(&name, &dims), t));
        }
        Some(inputs)
    }

    fn tensor(&self, t: usize, whole: bool) -> Value {
        let given = &self.tensors[t];
        let first = given.range.map(|(min, max)| {
            if given.hint {
                json!(format!("Dim.AUTO(min={min}, max={max})"))
            } else {
                json!(format!("d{t}"))
            }
        });
        if whole {
            let mut axes = vec![json!(4); given.rank];
            if let (Some(first), Some(axis)) = (first, axes.first_mut()) {
                *axis = first;
            }
            return Value::Array(axes);
        }
        Value::Object(first.map(|f| ("0".to_owned(), f)).into_iter().collect())
    }

    fn tree(&self, node: &Node, whole: bool, shuffled: bool, random: &mut Random) -> Value {
        match node {
            Node::Other => Value::Null,
            Node::Tensor(t) => self.tensor(*t, whole),
            Node::List(items) => (items.iter())
                .map(|n| self.tree(n, whole, shuffled, random))
                .collect(),
            Node::Dict(items) => {
                let mut items: Vec<(String, Value)> = (items.iter())
                    .map(|(k, n)| (k.clone(), self.tree(n, whole, shuffled, random)))
                    .collect();
                if shuffled {
                    random.shuffle(&mut items);
                }
                Value::Object(items.into_iter().collect())
            }
        }
    }

    /// The spec in one form; with the keys of objects in another order, which means the same in JSON, if `shuffled`.
    fn spec(
        &self,
        form: Form,
        inputs: &[(TensorDecl, usize)],
        shuffled: bool,
        random: &mut Random,
    ) -> String {
        let dims: Map<String, Value> = (self.tensors.iter().enumerate())
            .filter(|(_, t)| !t.hint)
            .filter_map(|(n, t)| {
                let (min, max) = t.range?;
                Some((format!("d{n}"), json!({"min": min, "max": max})))
            })
            .collect();
        let torch = form == Form::Torch;
        let mut trees: Vec<Value> = Vec::new();
        for (_, node) in &self.arguments {
            trees.push(self.tree(node, torch, shuffled, random));
        }
        let spec = match form {
            Form::Torch => json!({"dims": dims, "dynamic_shapes": trees}),
            Form::Args => {
                let kwargs = trees.split_off(self.positional);
                let names = self.arguments[self.positional..]
                    .iter()
                    .map(|(n, _)| n.clone());
                let mut kwargs: Vec<(String, Value)> = names.zip(kwargs).collect();
                if shuffled {
                    random.shuffle(&mut kwargs);
                }
                let kwargs: Map<String, Value> = kwargs.into_iter().collect();
                json!({"dims": dims, "args": trees, "kwargs": kwargs})
            }
            Form::Inputs => {
                let named = (inputs.iter()).map(|(i, t)| (i.name.clone(), self.tensor(*t, true)));
                json!({"dims": dims, "inputs": named.collect::<Map<_, _>>()})
            }
        };
        spec.to_string()
    }

    /// What the spec means for every input.
    fn meant(&self, inputs: &[(TensorDecl, usize)]) -> String {
        let lines: Vec<String> = (inputs.iter())
            .map(|(input, t)| {
                let given = &self.tensors[*t];
                let mut axes = vec!["4".to_owned(); given.rank];
                if let (Some((min, max)), Some(axis)) = (given.range, axes.first_mut()) {
                    *axis = format!("{min}:{}:{max}", min + (max - min) / 2);
                }
                format!("{} {}", input.name, axes.join(" "))
            })
            .collect();
        lines.join("\n")
    }
}

fn flatten(node: &Node, path: Vec<String>, out: &mut Vec<(Vec<String>, Option<usize>)>) {
    let below = |step: String| [path.as_slice(), &[step]].concat();
    match node {
        Node::Other => out.push((path, None)),
        Node::Tensor(t) => out.push((path, Some(*t))),
        Node::List(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(item, below(i.to_string()), out);
            }
        }
        Node::Dict(items) => {
            for (key, item) in items {
                flatten(item, below(key.clone()), out);
            }
        }
    }
}

/// `_rename_without_collisions` of `torch/_export/utils.py`, for placeholders.
#[derive(Default)]
struct Namer {
    used: BTreeSet<String>,
    available: HashMap<String, u64>,
}

impl Namer {
    fn name(&mut self, path: &[String]) -> String {
        let part = |p: &String| -> String {
            (p.chars())
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect::<String>()
                .to_lowercase()
        };
        let mut name = path.iter().map(part).collect::<Vec<_>>().join("_");
        if self.used.contains(&name) {
            name = format!("{name}_{}", self.available.get(&name).unwrap_or(&0) + 1);
        }
        if let Some((prefix, n)) = name.rsplit_once('_')
            && let Ok(n) = n.parse::<u64>()
        {
            let next = self.available.entry(prefix.to_owned()).or_default();
            *next = n.max(*next);
        }
        self.used.insert(name.clone());
        name
    }
}

#[test]
fn no_tensor_of_a_nested_call_gets_another_ones_range() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut specs, mut refused) = (0, BTreeMap::new());
    while specs < 5000 {
        let call = Call::new(&mut random);
        let Some(inputs) = call.inputs(&mut random) else {
            continue;
        };
        let decls: Vec<TensorDecl> = inputs.iter().map(|(i, _)| i.clone()).collect();
        let shuffled = random.chance(50);
        for form in [Form::Torch, Form::Args, Form::Inputs] {
            let text = call.spec(form, &inputs, shuffled, &mut random);
            specs += 1;
            match resolve(&text, &decls) {
                Ok(resolved) => {
                    assert_eq!(table(&resolved), call.meant(&inputs), "{text}\n{decls:?}");
                }
                Err(Error::Model { .. }) => {
                    *refused.entry((format!("{form:?}"), shuffled)).or_insert(0) += 1;
                }
                Err(other) => panic!("{other}\n{text}"),
            }
        }
    }
    let of = |form: &str, shuffled| *refused.get(&(form.to_owned(), shuffled)).unwrap_or(&0);
    assert_eq!((of("Inputs", true), of("Inputs", false)), (0, 0));
    assert!(refused.values().sum::<i32>() < 5000 / 50, "{refused:?}");
}

#[test]
fn no_tensor_gets_another_ones_range_where_the_exporter_left_some_out() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut specs, mut taken) = (0, 0);
    while specs < 2000 {
        let call = Call::new(&mut random);
        let Some(mut inputs) = call.inputs(&mut random) else {
            continue;
        };
        for _ in 0..=random.below(2) {
            if inputs.len() > 1 {
                inputs.remove(random.below(inputs.len()));
            }
        }
        let decls: Vec<TensorDecl> = inputs.iter().map(|(i, _)| i.clone()).collect();
        for form in [Form::Torch, Form::Args] {
            let shuffled = random.chance(30);
            let text = call.spec(form, &inputs, shuffled, &mut random);
            specs += 1;
            if let Ok(resolved) = resolve(&text, &decls) {
                assert_eq!(table(&resolved), call.meant(&inputs), "{text}\n{decls:?}");
                taken += 1;
            }
        }
    }
    assert!(taken > 200, "{taken} of {specs}");
}

#[test]
fn every_form_converts_to_every_other_and_back() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let forms = [Form::Torch, Form::Args, Form::Inputs];
    let (mut done, mut refused) = (0, 0);
    while done < 1500 {
        let call = Call::new(&mut random);
        let Some(inputs) = call.inputs(&mut random) else {
            continue;
        };
        let decls: Vec<TensorDecl> = inputs.iter().map(|(i, _)| i.clone()).collect();
        for form in forms {
            let text = call.spec(form, &inputs, false, &mut random);
            let Ok(meant) = resolve(&text, &decls) else {
                continue;
            };
            for there in forms {
                let convert =
                    |text: &str, to| spec(text).convert(&decls, &Overrides::default(), to);
                let Ok(once) = convert(&text, there) else {
                    refused += 1;
                    continue;
                };
                let back = match convert(&once.text, form) {
                    Ok(back) => back,
                    // By name, nothing tells any more what is positional.
                    Err(_) if form == Form::Torch => continue,
                    Err(e) => panic!("{e}\n{text}\n{}", once.text),
                };
                for text in [&once.text, &back.text] {
                    let again = resolve(text, &decls).unwrap_or_else(|e| panic!("{e}\n{text}"));
                    assert_eq!(again.profile(), meant.profile(), "{text}");
                }
                done += 1;
            }
        }
    }
    assert!(refused < done / 20, "{refused} of {done}");
}

/// What torch itself exported: `fixtures/shapes/torch_trees.json`, made by `make_trees.py` beside it.
fn recorded() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/shapes/torch_trees.json"
    );
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let trees = all["trees"].as_array().unwrap().iter();
    trees
        .filter(|r| r.get("refused").is_none())
        .cloned()
        .collect()
}

/// `Call` of a record, without the sizes that told torch's tensors apart.
fn call_of(record: &Value) -> Call {
    fn node(value: &Value, call: &mut Call) -> Node {
        match value {
            Value::Null => Node::Other,
            Value::Array(items) => Node::List(items.iter().map(|v| node(v, call)).collect()),
            v if v.get("dict").is_some() => {
                let items = v["dict"].as_array().unwrap().iter();
                Node::Dict(
                    items
                        .map(|i| (i[0].as_str().unwrap().to_owned(), node(&i[1], call)))
                        .collect(),
                )
            }
            v => {
                let range = (v["tensor"].as_array())
                    .map(|r| (r[0].as_u64().unwrap(), r[1].as_u64().unwrap()));
                call.tensors.push(Given {
                    rank: 2,
                    range,
                    hint: false,
                });
                Node::Tensor(call.tensors.len() - 1)
            }
        }
    }
    let names = record["names"].as_array().unwrap();
    let args = record["args"].as_array().unwrap();
    let mut call = Call {
        arguments: Vec::new(),
        positional: args.len(),
        tensors: Vec::new(),
    };
    let kwargs = names[args.len()..]
        .iter()
        .map(|n| &record["kwargs"][n.as_str().unwrap()]);
    for (name, value) in names.iter().zip(args.iter().chain(kwargs)) {
        let node = node(value, &mut call);
        call.arguments
            .push((name.as_str().unwrap().to_owned(), node));
    }
    call
}

#[test]
fn what_torch_exported_gets_the_ranges_that_torch_was_given() {
    let records = recorded();
    assert!(records.len() >= 100, "{}", records.len());
    let mut random = Random(3);
    let mut refused = 0;
    for record in &records {
        let mut call = call_of(record);
        let of = record["tensors"].as_array().unwrap();
        let graph = record["inputs"].as_array().unwrap();
        // The inputs in torch's order; the generator's rules must name them alike.
        let mut inputs: Vec<(TensorDecl, usize)> = Vec::new();
        for (at, input) in graph.iter().enumerate() {
            let t = of
                .iter()
                .position(|i| i.as_u64() == Some(at as u64))
                .unwrap();
            let dims = input[1].as_array().unwrap();
            call.tensors[t].rank = dims.len();
            let dims = match dims.first() {
                None => String::new(),
                // Torch numbers its dims otherwise than the generator.
                Some(first) if first.is_string() => format!("s{at} 4"),
                Some(_) => "4 4".to_owned(),
            };
            inputs.push((decl(input[0].as_str().unwrap(), &dims), t));
        }
        let ours: Vec<String> = (call.inputs(&mut random).unwrap().iter())
            .map(|(i, _)| i.name.clone())
            .collect();
        let theirs: Vec<String> = inputs.iter().map(|(i, _)| i.name.clone()).collect();
        assert_eq!(ours, theirs, "{record}");
        let decls: Vec<TensorDecl> = inputs.iter().map(|(i, _)| i.clone()).collect();
        for form in [Form::Torch, Form::Args, Form::Inputs] {
            for shuffled in [false, true] {
                let text = call.spec(form, &inputs, shuffled, &mut random);
                match resolve(&text, &decls) {
                    Ok(resolved) => assert_eq!(table(&resolved), call.meant(&inputs), "{text}"),
                    Err(_) => refused += 1,
                }
            }
        }
        // Torch's own dump, with the sizes that torch had.
        let own: Vec<TensorDecl> = (graph.iter())
            .map(|input| {
                let dims = input[1].as_array().unwrap().iter();
                let dims: Vec<String> = dims
                    .map(|d| d.as_str().map_or_else(|| d.to_string(), ToOwned::to_owned))
                    .collect();
                decl(input[0].as_str().unwrap(), &dims.join(" "))
            })
            .collect();
        let resolved = resolve(&record["dump"].to_string(), &own).unwrap();
        let firsts = |r: &Resolved| -> Vec<AxisRange> {
            let inputs = r.profile().inputs;
            inputs
                .iter()
                .filter_map(|i| i.axes.first().copied())
                .collect()
        };
        let meant = resolve(
            &call.spec(Form::Inputs, &inputs, false, &mut random),
            &decls,
        )
        .unwrap();
        assert_eq!(firsts(&resolved), firsts(&meant), "{record}");
    }
    // Keys that differ in a letter's size alone, which torch tells apart by their order.
    assert!(refused < 16, "{refused}");
}

/// Specs converted to torch's form: of generated calls, and of what torch has no word for.
fn written_for_torch() -> Vec<Value> {
    let mut random = Random(0x5bd1_e995);
    let mut texts = Vec::new();
    while texts.len() < 150 {
        let call = Call::new(&mut random);
        let Some(inputs) = call.inputs(&mut random) else {
            continue;
        };
        let decls: Vec<TensorDecl> = inputs.iter().map(|(i, _)| i.clone()).collect();
        let form = [Form::Torch, Form::Args, Form::Inputs][random.below(3)];
        let text = call.spec(form, &inputs, false, &mut random);
        let none = Overrides::default();
        if let Ok(converted) = spec(&text).convert(&decls, &none, Form::Torch) {
            texts.push(converted.text);
        }
    }
    let inputs = [decl("x", "? ? 4*s ? 7"), decl("y", "? b c ?")];
    for text in [
        // No max, one value, names that sympy reads as something else, derived dims.
        r#"{"dims": {"N": {}, "S": {"min": 3}, "lambda": {"max": 9}, "E": {"min": 4, "max": 4}},
            "inputs": {"x": ["N", "S", "4*lambda", "2*S - 1", 7], "y": ["E", "lambda", "N + 3", "3*lambda"]}}"#,
        // Hints of all kinds, a dim of the name that a renamed one would get.
        r#"{"dims": {"N": {"max": 5}, "N_": {"min": 2, "max": 6}},
            "inputs": {"x": ["AUTO", "DYNAMIC", "AUTO", "N", "STATIC"], "y": ["N_", "Dim.AUTO(min=2, max=8)", "DYNAMIC", "Dim.DYNAMIC(max=9)"]}}"#,
        r#"{"dims": {"B": {"min": 1, "max": 9223372036854775807}},
            "args": [{"0": "B", "1": 3, "2": "AUTO", "-2": "B", "4": null}, ["B", "AUTO", 2, "B + 1"]]}"#,
    ] {
        let converted = spec(text).convert(&inputs, &Overrides::default(), Form::Torch);
        texts.push(converted.unwrap().text);
    }
    texts
        .iter()
        .map(|t| serde_json::from_str(t).unwrap())
        .collect()
}

#[test]
fn torchs_own_loader_took_what_is_written_for_it() {
    let written = written_for_torch();
    if let Ok(path) = std::env::var("TORCH_DUMPS_TO") {
        std::fs::write(path, serde_json::to_string(&written).unwrap()).unwrap();
    }
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/shapes/torch_loads.json"
    );
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let loaded = all["loaded"].as_array().unwrap();
    for dump in &written {
        assert!(
            loaded.contains(dump),
            "torch was not asked about this; see fixtures/shapes/make_loads.py\n{dump}"
        );
    }
}
