//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").expect("cargo says what it builds for");
    // Rust's own linker, which is the default for this target alone, writes the table of addresses that are set when
    // the program is loaded in a fiftieth of the room (glibc 2.36 and later read that), and functions that came out
    // the same once.
    if target == "x86_64-unknown-linux-gnu" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}
