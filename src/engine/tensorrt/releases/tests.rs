//! The numbers against the facts that they were written from, and against the vendor's own bindings.

use super::numbers::{COLUMNS, RELEASES};
use super::{
    AllocatorForm, Basis, CallForm, Dims32, Dims64, DimsForm, InterfaceInfo, LoggerForm,
    MonitorForm, NoTable, Product, ProfilerForm, RefitRecord, Release, TABLE, Version, Weights,
};
use serde_json::Value;
use std::path::Path;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/tensorrt_releases")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What `groups` has for `name`: `[{"in": "trt-8.5 trt-8.6.0", "is": …}]`.
fn of<'g>(groups: &'g Value, name: &str) -> Option<&'g Value> {
    let has = |g: &&Value| {
        g["in"]
            .as_str()
            .unwrap()
            .split(' ')
            .any(|member| member == name)
    };
    Some(&groups.as_array()?.iter().find(has)?["is"])
}

fn version(text: &str) -> Version {
    let n: Vec<u32> = text.split('.').map(|p| p.parse().unwrap()).collect();
    Version::new(n[0], n[1], n[2])
}

fn product(name: &str) -> Product {
    if name.starts_with("trt-") {
        Product::TensorRt
    } else {
        Product::Rtx
    }
}

/// Every release whose headers were read: its name in the facts, and how it is looked up.
fn releases(facts: &Value) -> Vec<(String, Product, Version, Release)> {
    let all = facts["releases"].as_array().unwrap();
    let each = all.iter().flat_map(|r| {
        let name = r["version"].as_str().unwrap();
        let exact = r["releases"].as_array().unwrap();
        exact.iter().map(move |v| {
            let (product, version) = (product(name), version(v.as_str().unwrap()));
            let release = Release::of(product, version, None).unwrap();
            assert_eq!(release.basis, Basis::Exact, "{name}");
            (name.to_owned(), product, version, release)
        })
    });
    each.collect()
}

/// Name of the method that a signature declares: `bool setFlag(int)` is `setFlag`, `deleting dtor` is itself.
fn method(signature: &str) -> &str {
    match signature.split_once('(') {
        None => signature,
        Some((head, _)) => head.rsplit([' ', '*', '&']).next().unwrap(),
    }
}

/// Whether a signature is the one that is called, where a class has several methods of its name.
fn is_called(owner: &str, signature: &str) -> bool {
    (owner, method(signature)) != ("VRuntime", "deserializeCudaEngine")
        || signature.contains("const void *, std::size_t")
}

fn order(facts: &Value, name: &str, class: &str) -> Vec<String> {
    let slots = of(&facts["vtables"][class], name).and_then(Value::as_array);
    let slots = slots.into_iter().flatten();
    slots
        .map(|s| method(s.as_str().unwrap()).to_owned())
        .collect()
}

#[test]
fn every_number_of_every_release_is_its_headers() {
    let facts = fixture("interface.json");
    let (mut slots, mut values, mut absent) = (0, 0, 0);
    let all = releases(&facts);
    assert_eq!(all.len(), RELEASES.len());
    for (name, _, _, release) in &all {
        for named in TABLE.named() {
            let kind = if named.value { "enums" } else { "vtables" };
            let group = of(&facts[kind][named.owner], name);
            let fact = group.and_then(|group| {
                if named.value {
                    return group[named.name].as_u64();
                }
                let found = group.as_array().unwrap().iter().position(|s| {
                    let s = s.as_str().unwrap();
                    method(s) == named.name && is_called(named.owner, s)
                });
                found.map(|i| i as u64)
            });
            let ours = named.entry.get(*release).map(u64::from);
            assert_eq!(ours, fact, "{name} {}::{}", named.owner, named.name);
            match (fact, named.value) {
                (None, _) => absent += 1,
                (_, true) => values += 1,
                (_, false) => slots += 1,
            }
        }
    }
    assert!(
        slots > 2000 && values > 1000 && absent > 300,
        "{slots} {values} {absent}"
    );
}

#[test]
fn slots_are_what_the_vendors_bindings_call() {
    // From machine code, so it does not depend on how the headers were read.
    let bindings = fixture("bindings.json");
    let mut compared = 0;
    for (class, groups) in bindings["slots"].as_object().unwrap() {
        for group in groups.as_array().unwrap() {
            for release in group["in"].as_str().unwrap().split(' ') {
                let known = Release::of(Product::TensorRt, version(release), None).unwrap();
                for named in TABLE.named().iter().filter(|n| n.owner == class) {
                    // The bindings read plans through a stream, by another overload.
                    if named.name == "deserializeCudaEngine" {
                        continue;
                    }
                    let mut called = group["is"].as_object().unwrap().iter();
                    let Some((slot, _)) = called.find(|(_, m)| *m == named.name) else {
                        continue;
                    };
                    let slot: u16 = slot.parse().unwrap();
                    // 11.2 and 11.3 are known by their neighbours alone, and these are their own binaries.
                    assert_eq!(
                        named.entry.get(known),
                        Some(slot),
                        "{release} {class}::{}",
                        named.name
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 900, "{compared}");
}

#[test]
fn structs_and_forms_are_those_of_the_headers() {
    let facts = fixture("interface.json");
    for (name, product, _, release) in releases(&facts) {
        let form = release.form();
        assert_eq!(form.product, product);
        let size = |of_name: &str| {
            let found = of(&facts["structs"][format!("nvinfer1::{of_name}")], &name)
                .or_else(|| of(&facts["structs"][format!("nvonnxparser::{of_name}")], &name));
            found.map(|s| s["size"].as_u64().unwrap() as usize)
        };
        let (dims, ours) = match form.dims {
            DimsForm::Narrow => ("Dims32", size_of::<Dims32>()),
            DimsForm::Wide => ("Dims64", size_of::<Dims64>()),
        };
        assert_eq!(size(dims), Some(ours), "{name}");
        assert_eq!(size("Weights"), Some(size_of::<Weights>()), "{name}");
        for (struct_name, ours) in [
            ("InterfaceInfo", size_of::<InterfaceInfo>()),
            ("RefitRecord", size_of::<RefitRecord>()),
        ] {
            if let Some(n) = size(struct_name) {
                assert_eq!(n, ours, "{name} {struct_name}");
            }
        }
        let layout = of(&facts["handle_layout"], &name).unwrap();
        for (handle, layout) in layout.as_object().unwrap() {
            assert_eq!(layout["mImpl_offset"], 8, "{name} {handle}");
        }
        let signatures = |class: &str| -> Vec<&str> {
            let all = of(&facts["vtables"][class], &name).unwrap();
            let all = all.as_array().unwrap().iter();
            all.map(|s| s.as_str().unwrap()).collect()
        };
        let by_value = signatures("VOptimizationProfile")[2].ends_with(", Dims)");
        assert_eq!(by_value, form.dims == DimsForm::Narrow, "{name}");
        let factory = signatures("VRuntime")
            .iter()
            .any(|s| s.contains("std::size_t, IPluginFactory *"));
        assert_eq!(factory, form.calls == CallForm::Factory, "{name}");
        let strategy = signatures("VCudaEngine")
            .iter()
            .any(|s| s.contains("createExecutionContext(ExecutionContextAllocationStrategy)"));
        assert_eq!(strategy, form.calls == CallForm::Strategy, "{name}");
    }
}

/// The objects that we make are `repr(C)` structs of functions in this order (api/{logger,monitor,writer,allocator,observer}.rs).
#[test]
fn callbacks_have_the_order_of_the_headers() {
    let facts = fixture("interface.json");
    let head = [
        "getAPILanguage",
        "getInterfaceInfo",
        "complete dtor",
        "deleting dtor",
    ];
    let with = |tail: &[&'static str]| [&head, tail].concat();
    for (name, _, _, release) in releases(&facts) {
        let order = |class| order(&facts, &name, class);
        match release.form().logger {
            LoggerForm::Plain => assert_eq!(
                order("ILogger"),
                ["log", "complete dtor", "deleting dtor"],
                "{name}"
            ),
            LoggerForm::Versioned => assert_eq!(order("ILogger"), with(&["log"]), "{name}"),
        }
        match release.form().allocator {
            AllocatorForm::Plain => {
                // 8.5.1 and 8.5.2 end before the destructors.
                let ours = [
                    "getInterfaceVersion",
                    "reallocateOutput",
                    "notifyShape",
                    "complete dtor",
                    "deleting dtor",
                ];
                let theirs = order("IOutputAllocator");
                assert!(
                    theirs.len() >= 3 && theirs[..] == ours[..theirs.len()],
                    "{name}"
                );
            }
            AllocatorForm::Versioned => assert_eq!(
                order("IOutputAllocator"),
                with(&["reallocateOutput", "reallocateOutputAsync", "notifyShape"]),
                "{name}"
            ),
            AllocatorForm::AsyncOnly => assert_eq!(
                order("IOutputAllocator"),
                with(&["reallocateOutputAsync", "notifyShape"]),
                "{name}"
            ),
        }
        let has = |entry: &super::Entry| entry.get(release).is_some();
        if has(&TABLE.config.set_progress_monitor) {
            let all = with(&["phaseStart", "stepComplete", "phaseFinish"]);
            let ours = match release.form().monitor {
                MonitorForm::Plain => &all[2..],
                MonitorForm::Versioned => &all[..],
            };
            assert_eq!(order("IProgressMonitor"), ours, "{name}");
        }
        let ours = match release.form().profiler {
            ProfilerForm::Plain => vec!["reportLayerTime", "complete dtor", "deleting dtor"],
            ProfilerForm::Versioned => with(&["reportLayerTime"]),
        };
        assert_eq!(order("IProfiler"), ours, "{name}");
        if has(&TABLE.builder.build_serialized_network_to_stream) {
            assert_eq!(order("IStreamWriter"), with(&["write"]), "{name}");
        }
        if has(&TABLE.parser.set_refit_observer) {
            assert_eq!(
                order("IRefitterObserver"),
                ["complete dtor", "deleting dtor", "onRefittableWeight"],
                "{name}"
            );
        }
    }
}

#[test]
fn versions_are_read_as_each_product_writes_them() {
    let show = |product, n| Version::from_library(product, n).map(|v| v.to_string());
    assert_eq!(show(Product::TensorRt, 8600).as_deref(), Some("8.6.0"));
    assert_eq!(show(Product::TensorRt, 8503).as_deref(), Some("8.5.3"));
    assert_eq!(show(Product::TensorRt, 9300).as_deref(), Some("9.3.0"));
    assert_eq!(show(Product::TensorRt, 101_601).as_deref(), Some("10.16.1"));
    assert_eq!(show(Product::TensorRt, 110_400).as_deref(), Some("11.4.0"));
    assert_eq!(show(Product::Rtx, 10701).as_deref(), Some("1.7.1"));
    assert_eq!(show(Product::Rtx, 0), None);
}

#[test]
fn a_release_between_two_is_called_for_what_both_agree_on() {
    let release = |v: (u32, u32, u32)| {
        Release::of(Product::TensorRt, Version::new(v.0, v.1, v.2), None).unwrap()
    };
    let v11_3 = release((11, 3, 0));
    assert_eq!(
        v11_3.basis.to_string(),
        "what the headers of 11.1.0 and 11.4.0 agree on"
    );
    assert_eq!(TABLE.network.mark_weights_refittable.get(v11_3), Some(69));
    // 11.4 has it and 11.1 has not.
    assert_eq!(TABLE.parser.set_refit_observer.get(v11_3), None);
    // 10.8 moved it.
    let between = release((10, 7, 3));
    assert!(matches!(between.basis, Basis::Between(..)));
    assert_eq!(TABLE.network.mark_weights_refittable.get(between), None);
    assert_eq!(TABLE.network.get_input.get(between), Some(15));
    // Both sides are the same column, and so is what is between.
    assert_eq!(
        TABLE
            .builder
            .build_serialized_network_to_stream
            .get(release((10, 13, 1))),
        Some(21)
    );
    // 9.0 keeps what 8.6.1 has; 8.6.3 is a release of its own for some devices.
    assert_eq!(TABLE.parser.set_flag.get(release((8, 6, 3))), Some(15));
}

#[test]
fn what_moved_inside_a_major_is_known() {
    let slot = |entry: &super::Entry, v: (u32, u32, u32)| {
        let release = Release::of(Product::TensorRt, Version::new(v.0, v.1, v.2), None);
        entry.get(release.unwrap())
    };
    let mark = &TABLE.network.mark_weights_refittable;
    assert_eq!(slot(mark, (10, 1, 0)), None);
    assert_eq!(slot(mark, (10, 2, 0)), Some(72));
    assert_eq!(slot(mark, (10, 8, 0)), Some(73));
    assert_eq!(slot(mark, (10, 9, 0)), Some(72));
    let delete = &TABLE.parser.deleting_dtor;
    // The shipped library of 8.6.0 is not its tagged header, which has the destructor at 15 and flags before it.
    assert_eq!(slot(delete, (8, 6, 0)), Some(10));
    assert_eq!(slot(&TABLE.parser.set_flag, (8, 6, 0)), None);
    assert_eq!(slot(delete, (8, 6, 1)), Some(10));
    assert_eq!(slot(&TABLE.parser.set_flag, (8, 6, 1)), Some(15));
    assert_eq!(slot(&TABLE.parser_error.node_name, (9, 0, 1)), None);
    assert_eq!(slot(&TABLE.parser_error.node_name, (9, 1, 0)), Some(6));
    for (entry, first) in [
        (&TABLE.flag.refit_individual, "10.2.0"),
        (&TABLE.data_type.fp4, "10.8.0"),
        (&TABLE.hardware.same_compute_capability, "10.9.0"),
        (&TABLE.data_type.e8m0, "10.12.0"),
        (&TABLE.serialization_flag.include_refit, "10.14.1"),
        (&TABLE.network_flag.strongly_typed, "9.0.1"),
    ] {
        assert_eq!(
            entry.since(Product::TensorRt).unwrap().to_string(),
            first,
            "{first}"
        );
    }
}

#[test]
fn releases_beyond_the_known_are_refused_and_can_be_tried() {
    use Product::{Rtx, TensorRt};
    let ask = |product, v: (u32, u32, u32), assume| {
        Release::of(product, Version::new(v.0, v.1, v.2), assume)
    };
    for (product, version, newest) in [
        (TensorRt, (12, 0, 0), "11.4.0"),
        (TensorRt, (11, 5, 0), "11.4.0"),
        // The next one known calls in another way, so what both agree on is little and not enough.
        (TensorRt, (10, 17, 0), "10.16.1"),
        (TensorRt, (9, 4, 0), "9.3.0"),
        (Rtx, (1, 4, 5), "1.4.0"),
        (Rtx, (1, 8, 0), "1.7.1"),
        (Rtx, (2, 0, 0), "1.7.1"),
    ] {
        let why = ask(product, version, None).unwrap_err().to_string();
        assert!(
            why.contains(&format!("newer than {newest}"))
                && why.contains(&format!("TRTMUT_ASSUME_TENSORRT={newest}")),
            "{version:?}: {why}"
        );
        let tried = ask(product, version, Some(newest)).unwrap();
        assert!(matches!(tried.basis, Basis::Assumed(v) if v.to_string() == newest));
        assert_eq!(
            tried.form(),
            ask(product, self::version(newest).parts(), None)
                .unwrap()
                .form()
        );
    }
    for (product, version, oldest) in [(TensorRt, (8, 4, 3), "8.5.1"), (Rtx, (1, 2, 0), "1.3.0")] {
        let refused = ask(product, version, Some("11.4")).unwrap_err();
        assert!(
            matches!(&refused, NoTable::Older { oldest: o } if o.to_string() == oldest),
            "{refused}"
        );
    }
    let tried = ask(TensorRt, (12, 0, 0), Some("10.16")).unwrap();
    assert!(matches!(tried.basis, Basis::Assumed(v) if v == Version::new(10, 16, 1)));
    for nonsense in ["", "newest", "11", "11.5", "1.7.1", "11.4.0.1"] {
        let refused = ask(TensorRt, (12, 0, 0), Some(nonsense))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(&format!("`{nonsense}`")) && refused.contains("11.4.0"),
            "{refused}"
        );
    }
    // What is known is never overruled.
    let exact = ask(TensorRt, (10, 8, 0), Some("11.4")).unwrap();
    assert_eq!(exact.basis, Basis::Exact);
}

#[test]
fn columns_are_in_order_of_age() {
    for pair in RELEASES.windows(2) {
        let products = [COLUMNS[pair[0].1].product, COLUMNS[pair[1].1].product];
        assert!(products[0] < products[1] || pair[0].0 < pair[1].0);
    }
}
