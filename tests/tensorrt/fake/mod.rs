//! A library compiled here, with the slot numbers of one release, whose answers are chosen by switches.

pub mod library;

use super::model;
use library::{Fake, Release};
use libtest_mimic::{Failed, Trial};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use trtmut::engine::tensorrt::api::{
    Builder, Core, CudaEngine, Flag, NetworkTyping, Parser, Refitter, Runtime, Selector, Verbosity,
};
use trtmut::engine::tensorrt::loader::{self, Tried};
use trtmut::engine::tensorrt::{Known, Product, list_slots, refit_engine};
use trtmut::engine::{Backend, BuildJob, Error, Feed, Slot};
use trtmut::tensor::Dtype;
use trtmut::watch::{Event, Silent, Watch};

const V8: Release = ("trt-8.6", 8600, Product::TensorRt);
const V10: Release = ("trt-10.16", 101_600, Product::TensorRt);
const RTX: Release = ("rtx-1.7", 10700, Product::Rtx);
/// The first and last release of every family.
const ALL: &[Release] = &[
    ("trt-8.5", 8500, Product::TensorRt),
    V8,
    ("trt-8.6", 8601, Product::TensorRt),
    ("trt-10.0", 100_000, Product::TensorRt),
    V10,
    ("trt-11.0", 110_000, Product::TensorRt),
    ("trt-11.4", 110_400, Product::TensorRt),
    ("rtx-1.3", 10300, Product::Rtx),
    ("rtx-1.4", 10400, Product::Rtx),
    ("rtx-1.5", 10500, Product::Rtx),
    RTX,
];

type Test = fn() -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("a_release_without_a_table_is_not_called", unknown_version),
    ("missing_symbols_are_named", missing_symbols),
    ("everything_that_was_tried_is_listed", all_tried),
    ("null_factories_tell_the_librarys_words", null_factories),
    ("parse_errors_are_records", parse_errors),
    ("a_failed_build_tells_the_last_errors", build_null),
    ("a_refused_profile_is_told", profile_refused),
    ("plans_that_do_not_open_tell_why", deserialize_null),
    ("odd_answers_are_errors", odd_answers),
    ("layers_are_pinned_where_types_are_weak", pinned_layers),
    ("a_failed_refit_is_told", refit_false),
    (
        "weights_that_do_not_fit_are_refused_before_the_library_sees_them",
        wrong_weights,
    ),
    ("a_layers_other_weights_are_asked_for", missing_weights),
    ("slots_come_from_prototypes_or_from_what_is_known", slots),
    (
        "what_is_computed_together_is_given_together",
        only_what_differs,
    ),
    ("a_failed_enqueue_is_told", enqueue_false),
    ("objects_keep_their_library", library_dropped_first),
    (
        "without_a_gpu_nothing_is_called_that_needs_one",
        needs_a_gpu,
    ),
    ("the_backend_builds_ahead_of_time", ahead_of_time),
];

pub fn trials() -> Vec<Trial> {
    let here = Command::new("cc")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    let why = if here {
        ""
    } else {
        " (there is no `cc` on the path)"
    };
    let named = TESTS.iter().map(|(name, test)| ((*name).to_owned(), *test));
    let mut trials: Vec<Trial> = named
        .map(|(name, test)| Trial::test(format!("fake/{name}{why}"), test).with_ignored_flag(!here))
        .collect();
    trials.extend(ALL.iter().map(|&release| {
        let name = format!(
            "fake/{} ({}) builds, runs and is refitted{why}",
            release.0, release.1
        );
        Trial::test(name, move || whole_cycle(release)).with_ignored_flag(!here)
    }));
    trials
}

#[derive(Default)]
struct Collect(Mutex<Vec<String>>);

impl Watch for Collect {
    fn event(&self, event: Event<'_>) {
        self.0.lock().expect("no panic").push(format!("{event:?}"));
    }
}

/// Gives `[7, …]` for the named slots.
struct Sevens(&'static [&'static str]);

impl Feed for Sevens {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(self
            .0
            .contains(&slot.name.as_str())
            .then(|| Cow::Owned(7f32.to_le_bytes().repeat(slot.count))))
    }
}

fn f32_slot(name: &str) -> Slot {
    Slot {
        name: name.into(),
        dtype: Dtype::F32,
        shape: Some(vec![2, 2]),
        count: 4,
        refittable: true,
    }
}

fn known() -> Known {
    Known {
        slots: ["w", "b", "c"].map(f32_slot).into(),
        ..Known::default()
    }
}

fn engine(core: &Arc<Core>) -> Result<CudaEngine, Error> {
    Runtime::new(core)?.deserialize(b"fake plan")
}

/// Builds with everything that the release has, and gives the plan's bytes.
fn build(core: &Arc<Core>, watch: &dyn Watch) -> Result<Vec<u8>, Error> {
    let builder = Builder::new(core)?;
    builder.set_max_threads(2)?;
    let network = builder
        .network(NetworkTyping::Weak)
        .or_else(|_| builder.network(NetworkTyping::Strong))?;
    let parser = Parser::new(&network)?;
    parser
        .parse_file(Path::new("m.onnx"))?
        .map_err(|errors| Error::Library {
            library: "the parser".into(),
            message: format!("{errors:?}"),
        })?;
    let inputs = network.inputs()?;
    assert_eq!(
        (
            inputs[0].name.as_str(),
            inputs[0].dtype,
            inputs[0].dims.as_deref()
        ),
        ("x", Dtype::F32, Some(&[-1, 4][..]))
    );
    let config = builder.config()?;
    config.set(Flag::Refit, true)?;
    config.set(Flag::Tf32, false)?;
    config.set_verbosity(Verbosity::Detailed)?;
    config.set_workspace(1 << 20)?;
    assert!(config.set_timing_cache(b"of another GPU")?.is_none());
    let cache = config
        .set_timing_cache(&[])?
        .expect("an empty cache is always taken");
    assert!(!cache.serialize()?.bytes().is_empty());
    let profile = builder.profile()?;
    for (selector, batch) in Selector::ALL.into_iter().zip(1..) {
        profile.set("x", selector, &[batch, 4])?;
    }
    config.add_profile(&profile)?;
    let plan = builder.build(&network, &config, watch)?.bytes().to_vec();
    if builder.can_stream() {
        let mut streamed = Vec::new();
        builder.build_to(&network, &config, &mut streamed, watch)?;
        assert_eq!(streamed, plan);
    }
    Ok(plan)
}

fn whole_cycle(release: Release) -> Result<(), Failed> {
    let fake = Fake::new(release, &[]);
    let core = fake.core();
    let seen = Collect::default();
    let plan = build(&core, &seen)?;
    let has_monitor = release.1 / 1000 != 8;
    assert_eq!(
        seen.0.into_inner()?.iter().any(|e| e.contains("Building")),
        has_monitor
    );
    let engine = Rc::new(Runtime::new(&core)?.deserialize(&plan)?);
    let io = engine.io()?;
    assert_eq!(
        io.iter()
            .map(|t| (t.name.as_str(), t.is_input))
            .collect::<Vec<_>>(),
        [("x", true), ("y", false)]
    );
    assert_eq!(io[0].dims, [-1, 4]);
    assert_eq!(
        engine.profile_shape("x", 0, Selector::Max)?,
        Some(vec![3, 4])
    );
    assert_eq!(engine.profile_shape("x", 1, Selector::Max)?, None);
    assert_eq!((engine.layers()?, engine.profiles()?), (2, 1));
    assert_eq!(engine.inspect()?, "{\"Layers\":[]}");
    let context = engine.context()?;
    assert!(context.set_input_shape("x", &[2, 4])? && !context.set_input_shape("x", &[9, 4])?);
    assert!(context.set_input_shape("x", &[3, 4])?);
    context.infer_shapes()?;
    assert_eq!(context.shape("y")?, [3, 4]);
    let mut memory = 0u64;
    #[allow(unsafe_code)]
    // SAFETY: the fake computes nothing.
    unsafe {
        context.set_address("x", (&raw mut memory).cast())?;
        context.set_address("y", (&raw mut memory).cast())?;
        context.enqueue(std::ptr::null_mut())?;
    }
    drop(context);
    refit_engine(&engine, &known(), &Sevens(&["w", "b", "c"]), 4, &Silent)?;
    assert_eq!(engine.serialize()?.bytes(), b"fake plan");
    drop(core);
    assert_eq!(fake.counts(), (2, 0), "runtime and engine");
    drop(engine);
    assert_eq!(fake.counts(), (0, 0));
    Ok(())
}

fn unavailable(result: Result<Arc<loader::Loaded>, Error>) -> String {
    let e = result.expect_err("it must not load");
    assert!(matches!(e, Error::Unavailable { .. }));
    e.to_string()
}

fn unknown_version() -> Result<(), Failed> {
    for (release, number, expected) in [
        (V8, 9300, "TensorRT 9.3.0"),
        (V8, 8401, "TensorRT 8.4.1"),
        (V10, 120_000, "TensorRT 12.0.0"),
        (RTX, 10200, "1.2.0"),
        (V8, -1, "which is none"),
    ] {
        let fake = Fake::new((release.0, number, release.2), &[]);
        let text = unavailable(loader::find(release.2, &fake.search()));
        assert!(text.contains(expected), "{text}");
    }
    Ok(())
}

fn missing_symbols() -> Result<(), Failed> {
    for (switch, symbol) in [
        ("-DNO_VERSION", "getInferLibVersion"),
        ("-DNO_RUNTIME", "createInferRuntime_INTERNAL"),
    ] {
        let fake = Fake::new(V8, &[switch]);
        let text = unavailable(loader::find(Product::TensorRt, &fake.search()));
        assert!(text.contains(symbol), "{text}");
    }
    // Without a builder or a parser a library still runs engines; only building says what is missing.
    let core = Fake::new(V8, &["-DNO_BUILDER"]).core();
    assert!(!core.loaded().can_build());
    let e = Builder::new(&core).err().ok_or("there is no builder")?;
    assert!(e.to_string().contains("has no builder"), "{e}");
    let core = Fake::new(V8, &["-DNO_PARSER"]).core();
    assert!(!core.loaded().can_build());
    let network = Builder::new(&core)?.network(NetworkTyping::Weak)?;
    let e = Parser::new(&network).err().ok_or("there is no parser")?;
    assert!(e.to_string().contains("createNvOnnxParser_INTERNAL"), "{e}");
    Ok(())
}

fn all_tried() -> Result<(), Failed> {
    let fake = Fake::new((V8.0, 9300, V8.2), &[]);
    std::fs::write(fake.folder.path().join("libnvinfer.so.10"), b"junk")?;
    let text = unavailable(loader::find(Product::TensorRt, &fake.search()));
    assert!(
        text.contains("libnvinfer.so.10")
            && text.contains("libnvinfer.so.8")
            && text.contains("9.3.0"),
        "{text}"
    );
    let (found, tried): (_, Vec<Tried>) = loader::survey(&fake.search());
    assert_eq!((found.len(), tried.len()), (0, 2));
    Ok(())
}

fn library_error<T>(result: Result<T, Error>, parts: &[&str]) {
    let e = result.err().expect("it must fail");
    let text = e.to_string();
    assert!(parts.iter().all(|p| text.contains(p)), "{text}");
}

fn null_factories() -> Result<(), Failed> {
    for release in [V8, V10, RTX] {
        library_error(
            Builder::new(&Fake::new(release, &["-DBUILDER_NULL"]).core()),
            &["createInferBuilder", "error: 35"],
        );
        library_error(
            Runtime::new(&Fake::new(release, &["-DRUNTIME_NULL"]).core()),
            &["createInferRuntime", "no reason"],
        );
        let core = Fake::new(release, &["-DNETWORK_NULL"]).core();
        let typing = if release == V8 {
            NetworkTyping::Weak
        } else {
            NetworkTyping::Strong
        };
        library_error(
            Builder::new(&core)?.network(typing),
            &["createNetworkV2", "no network today"],
        );
        let core = Fake::new(release, &["-DPARSER_NULL"]).core();
        let network = Builder::new(&core)?.network(typing)?;
        library_error(Parser::new(&network), &["createNvOnnxParser"]);
        let core = Fake::new(release, &["-DREFITTER_NULL"]).core();
        library_error(
            Refitter::new(&engine(&core)?),
            &["createInferRefitter", "not refittable"],
        );
        let core = Fake::new(release, &["-DCONTEXT_NULL"]).core();
        library_error(
            Rc::new(engine(&core)?).context(),
            &["createExecutionContext", "mOptimizationProfile"],
        );
    }
    Ok(())
}

fn parse_errors() -> Result<(), Failed> {
    for (release, named) in [(V8, false), (V10, true), (RTX, true)] {
        let core = Fake::new(release, &["-DPARSE_FALSE"]).core();
        let typing = if release == V8 {
            NetworkTyping::Weak
        } else {
            NetworkTyping::Strong
        };
        let network = Builder::new(&core)?.network(typing)?;
        let parser = Parser::new(&network)?;
        for outcome in [
            parser.parse_file(Path::new("m.onnx"))?,
            parser
                .parse_bytes(b"model", Path::new("m.onnx"))?
                .map(|()| None),
        ] {
            let errors = outcome.expect_err("it fails");
            assert_eq!((errors.len(), errors[0].node), (2, 0));
            assert_eq!(
                errors[0].reason,
                "Assertion failed: axes.allValuesKnown() (onnxOpImporters.cpp:5031)"
            );
            assert_eq!(errors[0].operator.as_deref(), named.then_some("Slice"));
            assert_eq!(errors[0].name.as_deref(), named.then_some("/mid/Slice_3"));
        }
        let core = Fake::new(release, &["-DPARSE_SILENT"]).core();
        let network = Builder::new(&core)?.network(typing)?;
        library_error(
            Parser::new(&network)?.parse_file(Path::new("m.onnx")),
            &["Failed to parse"],
        );
    }
    Ok(())
}

fn build_null() -> Result<(), Failed> {
    for release in [V8, V10, RTX] {
        let fake = Fake::new(release, &["-DBUILD_NULL"]);
        let e = build(&fake.core(), &Silent)
            .expect_err("it fails")
            .to_string();
        assert!(
            e.contains("first trouble; Could not find any implementation for node conv_17"),
            "{e}"
        );
        assert!(!e.contains("a warning on the way"), "{e}");
        assert_eq!(fake.counts(), (0, 0));
    }
    Ok(())
}

fn profile_refused() -> Result<(), Failed> {
    for release in [V8, V10] {
        library_error(
            build(&Fake::new(release, &["-DPROFILE_FALSE"]).core(), &Silent),
            &["`x`", "profile refused"],
        );
    }
    let core = Fake::new(V8, &[]).core();
    let profile = Builder::new(&core)?.profile()?;
    library_error(profile.set("x", Selector::Min, &[1; 9]), &["at most 8"]);
    library_error(profile.set("x", Selector::Min, &[1 << 40]), &["too large"]);
    library_error(profile.set("a\0b", Selector::Min, &[1]), &["zero byte"]);
    Ok(())
}

fn deserialize_null() -> Result<(), Failed> {
    let fake = Fake::new(V8, &["-DDESERIALIZE_NULL"]);
    library_error(engine(&fake.core()), &["Version tag does not match"]);
    assert_eq!(fake.counts(), (0, 0));
    Ok(())
}

fn odd_answers() -> Result<(), Failed> {
    library_error(
        engine(&Fake::new(V8, &["-DODD_TYPE"]).core())?.io(),
        &["element type 99"],
    );
    library_error(
        engine(&Fake::new(V10, &["-DNO_SHAPE"]).core())?.io(),
        &["`x` has no shape"],
    );
    let core = Fake::new(V8, &[]).core();
    let builder = Builder::new(&core)?;
    library_error(builder.network(NetworkTyping::Strong), &["strongly typed"]);
    let config = builder.config()?;
    library_error(config.set(Flag::StripPlan, true), &["stripped plans"]);
    library_error(
        config.set_compute_capabilities(&[89]),
        &["this version has no"],
    );
    assert!(!config.has(Flag::Bf16) && config.has(Flag::Fp16));
    Ok(())
}

fn pinned_layers() -> Result<(), Failed> {
    for release in [V8, V10] {
        let fake = Fake::new(release, &[]);
        let core = fake.core();
        let network = Builder::new(&core)?.network(NetworkTyping::Weak)?;
        assert!(network.can_pin());
        let layer = network.layer(0)?;
        let tensors = [("x", &layer.inputs), ("sum", &layer.outputs)];
        for (name, tensors) in tensors {
            assert_eq!(tensors.len(), 1);
            assert_eq!(
                (tensors[0].name.as_str(), tensors[0].dtype),
                (name, Dtype::F32)
            );
        }
        layer.pin(Dtype::F16, false)?;
        assert_eq!(fake.pinned(), 2, "kHALF for the output alone");
        layer.pin(Dtype::F32, true)?;
        assert_eq!(fake.pinned(), 11, "kFLOAT for both");
        library_error(layer.pin(Dtype::F64, true), &["no element type f64"]);
        library_error(network.layer(1).map(|_| ()), &["getLayer"]);
    }
    // Strongly typed networks have nothing to pin.
    let core = Fake::new(RTX, &[]).core();
    let network = Builder::new(&core)?.network(NetworkTyping::Strong)?;
    assert!(!network.can_pin());
    Ok(())
}

fn refit_false() -> Result<(), Failed> {
    for release in [V8, V10, RTX] {
        let fake = Fake::new(release, &["-DREFIT_FALSE"]);
        let engine = engine(&fake.core())?;
        library_error(
            refit_engine(&engine, &known(), &Sevens(&["w", "b"]), 1, &Silent),
            &["refitCudaEngine failed", "refit went wrong"],
        );
        drop(engine);
        assert_eq!(fake.counts(), (0, 0));
    }
    Ok(())
}

fn wrong_weights() -> Result<(), Failed> {
    let core = Fake::new(V8, &[]).core();
    let engine = engine(&core)?;
    let mut refitter = Refitter::new(&engine)?;
    library_error(
        refitter.set("w", Dtype::F32, 4, Cow::Borrowed(&[0; 15])),
        &["`w`", "15 bytes"],
    );
    library_error(
        refitter.set("w", Dtype::Bf16, 4, Cow::Borrowed(&[0; 8])),
        &["`w`", "no element type bf16"],
    );
    library_error(
        refitter.set("w", Dtype::F32, usize::MAX, Cow::Borrowed(&[])),
        &["`w`"],
    );
    let seven = 7f32.to_le_bytes().repeat(4);
    library_error(
        refitter.set("nobody", Dtype::F32, 4, Cow::Borrowed(&seven)),
        &["`nobody`"],
    );
    refitter.set("w", Dtype::F32, 4, Cow::Borrowed(&seven))?;
    let core = Fake::new(V10, &["-DSET_FALSE"]).core();
    let e = refit_engine(&self::engine(&core)?, &known(), &Sevens(&["w"]), 1, &Silent)
        .expect_err("it is refused");
    assert!(matches!(&e, Error::Weight { name, .. } if name == "w"));
    assert!(
        e.to_string().contains("count of weights does not match"),
        "{e}"
    );
    Ok(())
}

fn missing_weights() -> Result<(), Failed> {
    for release in [V8, V10, RTX] {
        let core = Fake::new(release, &[]).core();
        let engine = engine(&core)?;
        let e =
            refit_engine(&engine, &known(), &Sevens(&["w"]), 1, &Silent).expect_err("b is missing");
        assert!(
            matches!(&e, Error::Weight { name, .. } if name == "b"),
            "{e}"
        );
        refit_engine(&engine, &known(), &Sevens(&["c"]), 1, &Silent)?;
        if release == V8 {
            let unknown = refit_engine(&engine, &Known::default(), &Sevens(&["w"]), 1, &Silent);
            library_error(unknown, &["no weight whose type is known"]);
        }
        // Nothing to give is nothing to do.
        refit_engine(&engine, &known(), &Sevens(&[]), 1, &Silent)?;
    }
    Ok(())
}

/// Has every slot's bytes, of which one differs from what the engine holds.
struct OneDiffers {
    name: &'static str,
    asked: Mutex<BTreeSet<String>>,
}

impl Feed for OneDiffers {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        let new = self
            .asked
            .lock()
            .expect("no panic")
            .insert(slot.name.clone());
        assert!(new, "`{}` is asked for twice", slot.name);
        Ok(Some(Cow::Owned(7f32.to_le_bytes().repeat(slot.count))))
    }

    fn differs(&self, slot: &Slot) -> bool {
        slot.name == self.name
    }
}

fn only_what_differs() -> Result<(), Failed> {
    let asked = |release, name| -> Result<Vec<String>, Failed> {
        let core = Fake::new(release, &[]).core();
        let feed = OneDiffers {
            name,
            asked: Mutex::default(),
        };
        refit_engine(&engine(&core)?, &known(), &feed, 1, &Silent)?;
        Ok(feed.asked.into_inner()?.into_iter().collect())
    };
    for release in [V8, V10] {
        assert_eq!(asked(release, "c")?, ["c"]);
        assert_eq!(asked(release, "w")?, ["b", "w"]);
        assert!(asked(release, "nothing")?.is_empty());
    }
    // Its list of what is missing is known to leave some out.
    assert_eq!(asked(RTX, "c")?, ["b", "c", "w"]);
    Ok(())
}

fn slots() -> Result<(), Failed> {
    let by_name = |release, known: &Known| -> Result<BTreeMap<String, (usize, bool)>, Failed> {
        let core = Fake::new(release, &[]).core();
        let listed = list_slots(&engine(&core)?, known)?;
        Ok(listed
            .into_iter()
            .map(|s| (s.name, (s.count, s.refittable)))
            .collect())
    };
    let nothing = Known::default();
    let expect = |rows: &[(&str, usize, bool)]| {
        rows.iter()
            .map(|&(n, c, r)| (n.to_owned(), (c, r)))
            .collect::<BTreeMap<_, _>>()
    };
    // Version 8 tells no types, and no version tells them of `c`.
    assert_eq!(
        by_name(V8, &nothing)?,
        expect(&[("w", 0, false), ("b", 0, false), ("c", 0, false)])
    );
    assert_eq!(
        by_name(V10, &nothing)?,
        expect(&[("w", 4, true), ("b", 4, true), ("c", 0, false)])
    );
    // What is known but not listed is baked in; what is known as structural stays so.
    let mut more = known();
    more.slots.push(f32_slot("folded"));
    more.slots[1].refittable = false;
    let expected = expect(&[
        ("w", 4, true),
        ("b", 4, false),
        ("c", 4, true),
        ("folded", 4, false),
    ]);
    assert_eq!(by_name(V8, &more)?, expected);
    assert_eq!(by_name(RTX, &more)?, expected);
    let core = Fake::new(V10, &["-DNOT_REFITTABLE"]).core();
    assert!(
        list_slots(&engine(&core)?, &known())?
            .iter()
            .all(|s| !s.refittable)
    );
    Ok(())
}

fn enqueue_false() -> Result<(), Failed> {
    let core = Fake::new(V10, &["-DENQUEUE_FALSE"]).core();
    let context = Rc::new(engine(&core)?).context()?;
    #[allow(unsafe_code)]
    // SAFETY: the fake computes nothing.
    let result = unsafe { context.enqueue(std::ptr::null_mut()) };
    library_error(result, &["enqueueV3 failed", "illegal memory access"]);
    Ok(())
}

fn library_dropped_first() -> Result<(), Failed> {
    let fake = Fake::new(V10, &[]);
    let loaded = loader::find(fake.product, &fake.search())?;
    let core = Core::new(loaded);
    let runtime = Runtime::new(&core)?;
    let engine = Rc::new(runtime.deserialize(b"fake plan")?);
    let context = engine.context()?;
    drop((core, runtime, engine));
    assert!(context.set_input_shape("x", &[1, 4])?);
    assert_eq!(fake.counts(), (3, 0), "runtime, engine and context");
    drop(context);
    assert_eq!(fake.counts(), (0, 0));
    let memory = {
        let core = fake.core();
        build(&core, &Silent)?;
        self::engine(&core)?.serialize()?
    };
    assert_eq!(memory.bytes(), b"fake plan");
    Ok(())
}

fn job_on(fake: &Fake, options: &[(&str, &str)]) -> Result<(Vec<u8>, Vec<Slot>), Error> {
    let (model, mut profile) = model("resnet", "ts");
    profile.inputs[0].name = "x".into();
    profile.inputs[0].axes.truncate(2);
    for (axis, (min, max)) in profile.inputs[0].axes.iter_mut().zip([(1usize, 3), (4, 4)]) {
        (axis.min, axis.opt, axis.max) = (min, min.midpoint(max), Some(max));
    }
    let options: BTreeMap<String, String> = options
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    let mut plan = Vec::new();
    let notes = fake.backend().build(
        &BuildJob {
            model: &model,
            profile: &profile,
            options: &options,
            mark: None,
        },
        &mut plan,
        &Silent,
    )?;
    Ok((plan, notes.slots))
}

fn needs_a_gpu() -> Result<(), Failed> {
    let fake = Fake::new(V8, &[]);
    if fake.backend().gpu().is_ok() {
        return Ok(());
    }
    let e = job_on(&fake, &[]).expect_err("TensorRT builds on its GPU");
    assert!(
        matches!(e, Error::Unavailable { .. }) && e.to_string().contains("needs a CUDA device"),
        "{e}"
    );
    let path = fake.folder.path().join("p.plan");
    let mut plan = b"ftrt".to_vec();
    plan.resize(24, 0);
    plan.extend([8, 6, 0, 12]);
    std::fs::write(&path, plan)?;
    let e = fake.backend().open(&path).err().ok_or("there is no GPU")?;
    assert!(matches!(e, Error::Unavailable { .. }), "{e}");
    assert_eq!(fake.counts(), (0, 0));
    Ok(())
}

fn ahead_of_time() -> Result<(), Failed> {
    for release in [RTX, ("rtx-1.3", 10300, Product::Rtx)] {
        let fake = Fake::new(release, &[]);
        let options = [
            ("refit", "none"),
            ("compute-capability", "8.6,8.9"),
            ("opt-level", "3"),
        ];
        let (plan, slots) = job_on(&fake, &options)?;
        assert_eq!(plan, b"fake plan");
        assert!(!slots.is_empty() && slots.iter().all(|s| !s.refittable));
        assert_eq!(fake.counts(), (0, 0));
    }
    // 12.1 came with TensorRT-RTX 1.5.
    let fake = Fake::new(("rtx-1.3", 10300, Product::Rtx), &[]);
    let e =
        job_on(&fake, &[("refit", "none"), ("compute-capability", "12.1")]).expect_err("not yet");
    assert!(e.to_string().contains("compute capability"), "{e}");
    Ok(())
}
