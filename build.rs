//! Fails early, and says what to do, where the linker would only say "cannot find -lsqlite3".

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const MESSAGE: &str = "
upshift links to the SQLite library that the Python interpreter uses, and the linker cannot find it.
Install its development files:
    Debian, Ubuntu   apt-get install libsqlite3-dev
    Fedora           dnf install sqlite-devel
    Alpine           apk add sqlite-dev
or point SQLITE3_LIB_DIR to the folder that holds the library. For a portable wheel with a private copy of SQLite,
build with the feature `bundled-sqlite`.";

const WITH_SQLITE: &str = "
#[link(name = \"sqlite3\")]
unsafe extern \"C\" { fn sqlite3_libversion_number() -> std::ffi::c_int; }
fn main() { std::process::exit(unsafe { sqlite3_libversion_number() }) }";

const WITHOUT: &str = "fn main() {}";

fn main() {
    // `cfg(Py_3_12)` and its like.
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SQLITE3_LIB_DIR");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let windows = env::var_os("CARGO_CFG_WINDOWS").is_some();
    if env::var_os("CARGO_FEATURE_BUNDLED_SQLITE").is_some() || windows {
        return;
    }
    // A machine that cannot link anything has another problem; the build itself will tell.
    if !links(WITH_SQLITE) && links(WITHOUT) {
        println!("cargo::error={}", MESSAGE.trim().replace('\n', "\ncargo::error="));
    }
}

/// Whether a program of this source can be linked for the target, in the way the library is going to be.
fn links(source: &str) -> bool {
    let Some(folder) = env::var_os("OUT_DIR") else {
        return true;
    };
    let program = Path::new(&folder).join("link_test");
    let file = program.with_extension("rs");
    if fs::write(&file, source).is_err() {
        return true;
    }
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")));
    rustc.args(["--edition=2024", "--crate-type=bin"]).arg(&file).arg("-o").arg(&program);
    rustc.args(env::var("TARGET").map(|target| format!("--target={target}")));
    rustc.args(env::var("RUSTC_LINKER").map(|linker| format!("-Clinker={linker}")));
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    rustc.args(library_folders().iter().map(|folder| format!("-Lnative={folder}")));
    rustc.stdout(Stdio::null()).stderr(Stdio::null());
    let linked = rustc.status().is_ok_and(|status| status.success());
    for left in [&file, &program] {
        // Tidiness only.
        let _ = fs::remove_file(left);
    }
    linked
}

/// Where libsqlite3-sys looks besides the linker's own folders.
fn library_folders() -> Vec<String> {
    if let Ok(folder) = env::var("SQLITE3_LIB_DIR") {
        return vec![folder];
    }
    let asked = Command::new("pkg-config").args(["--libs-only-L", "sqlite3"]).output();
    let output = asked.map(|output| output.stdout).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    output.split_whitespace().filter_map(|flag| flag.strip_prefix("-L")).map(str::to_owned).collect()
}
