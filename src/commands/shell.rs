//! What shells, manuals and bug reports need of the command line: completions, man pages, and what this build is.

use crate::engine::tensorrt::Product;
use crate::engine::tensorrt::releases::Release;
use crate::exit::Exit;
use crate::fsx;
use crate::ui::Ui;
use clap::Command;
use std::path::{Path, PathBuf};

/// Arguments of `trtmut completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut completions bash > ~/.local/share/bash-completion/completions/trtmut\n  \
    trtmut completions zsh > ~/.zfunc/_trtmut\n  \
    trtmut completions fish > ~/.config/fish/completions/trtmut.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `trtmut man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Where the pages go; made where it is missing
    folder: PathBuf,
}

/// Runs `trtmut completions`, for the command line `cli`.
///
/// # Errors
/// When stdout cannot be written.
pub fn completions(args: &CompletionsArgs, mut cli: Command, ui: &Ui) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "trtmut", &mut script);
    ui.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Runs `trtmut man`: one page for the program and for each command of `cli`.
///
/// # Errors
/// When the folder cannot be written.
pub fn man(args: &ManArgs, cli: Command) -> anyhow::Result<Exit> {
    std::fs::create_dir_all(&args.folder).map_err(|e| fsx::Error::write(&args.folder, e))?;
    // clap's `help` has every command below it once more, and each would get a page.
    let mut cli = cli.disable_help_subcommand(true);
    cli.build();
    pages(cli, &args.folder)?;
    Ok(Exit::Done)
}

fn pages(command: Command, folder: &Path) -> Result<(), fsx::Error> {
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(inner.clone(), folder)?;
    }
    let page = clap_mangen::Man::new(command);
    let path = folder.join(page.get_filename());
    fsx::write_atomic(&path, |out| {
        page.render(out).map_err(|e| fsx::Error::write(&path, e))
    })
}

/// What `trtmut --version --verbose` prints.
pub fn details() -> String {
    let features = match env!("BUILD_FEATURES") {
        "" => "none",
        features => features,
    };
    let tables = [Product::TensorRt, Product::Rtx].map(|product| {
        let (count, first, last) = Release::range(product);
        format!("{} {first} to {last} ({count} releases)", product.title())
    });
    format!(
        "trtmut {}\nrevision: {}\nhost: {}\nprofile: {}\ncompiler: {}\nfeatures: {features}\ntables: {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("BUILD_REVISION"),
        env!("BUILD_TARGET"),
        env!("BUILD_PROFILE"),
        env!("BUILD_RUSTC"),
        tables.join(", ")
    )
}
