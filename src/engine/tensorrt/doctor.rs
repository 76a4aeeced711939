//! What is here: libraries, GPU, and what each library can do with it.

use super::Product;
use super::gpu::{self, Gpu};
use super::loader::{Loaded, survey};
use super::told::{Ability, Facts, Found, Search, Survey};

pub fn look(search: &Search) -> Survey {
    let (found, tried) = survey(search);
    let gpu = Gpu::open().map(|g| g.facts().clone());
    let libraries = found
        .iter()
        .map(|l| Found {
            product: l.product,
            version: l.version.to_string(),
            known_by: l.release.basis.to_string(),
            path: l.path.clone(),
            lean: l.lean,
            parser_problem: l.parser_problem().map(ToOwned::to_owned),
            can: abilities(l, gpu.as_ref().map_err(String::as_str)),
        })
        .collect();
    let (gpu, gpu_problem) = match gpu {
        Ok(facts) => (Some(facts), None),
        Err(reason) => (None, Some(reason)),
    };
    Survey {
        libraries,
        tried,
        gpu,
        gpus: gpu::all()
            .ok()
            .filter(|all| all.len() > 1)
            .unwrap_or_default(),
        gpu_problem,
    }
}

fn abilities(l: &Loaded, gpu: Result<&Facts, &str>) -> Vec<Ability> {
    let no_builder = (!l.can_build()).then(|| {
        l.parser_problem()
            .filter(|_| !l.lean)
            .map_or_else(|| "it has no builder".to_owned(), ToOwned::to_owned)
    });
    let no_gpu = gpu
        .err()
        .map(|reason| format!("it needs a CUDA device, and {reason}"));
    // TensorRT-RTX refuses to load engines on GPUs that it does not compile for.
    let wrong_gpu = gpu
        .ok()
        .filter(|_| l.product == Product::Rtx)
        .and_then(|f| {
            let known =
                [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)].contains(&f.compute_capability);
            (!known).then(|| format!("it does not run on compute capability {}", f.capability()))
        });
    let no_refitter = (!l.can_refit()).then(|| "it has no refitter".to_owned());
    let run = no_gpu.clone().or(wrong_gpu);
    let mut all = vec![Ability {
        what: "build",
        problem: no_builder.clone().or_else(|| no_gpu.clone()),
    }];
    if l.product == Product::Rtx {
        all.push(Ability {
            what: "build (not refittable)",
            problem: no_builder,
        });
    }
    all.push(Ability {
        what: "refit",
        problem: no_refitter.or_else(|| run.clone()),
    });
    all.push(Ability {
        what: "run",
        problem: run,
    });
    all
}
