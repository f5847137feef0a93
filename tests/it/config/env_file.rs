//! Files named `.env`, and variables from launchers, read by the program itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use patchbay::environment::EnvFile;

use crate::process::new_folder;

fn parse(text: &str) -> Result<EnvFile, Vec<String>> {
    EnvFile::parse(text.as_bytes())
}

#[test]
fn env_file_values_are_read_literally() {
    for (line, expected) in [
        ("A=b", "b"),
        ("A=", ""),
        ("A = b", "b"),
        ("  A=b  ", "b"),
        ("export A=b", "b"),
        ("export\tA=b", "b"),
        ("A=a b  c", "a b  c"),
        ("A=pa$$w0rd${PATH}$HOME", "pa$$w0rd${PATH}$HOME"),
        ("A=a\\b\\n", "a\\b\\n"),
        ("A=a#b", "a#b"),
        ("A=#b", "#b"),
        ("A=b # a comment", "b"),
        ("A= # a comment", ""),
        ("A=b\t#a comment", "b"),
        ("A='b # no comment' # a comment", "b # no comment"),
        ("A=\"b # no comment\"# a comment", "b # no comment"),
        ("A=\"a $HOME ${PATH}\"", "a $HOME ${PATH}"),
        ("A='a $HOME \\n \"'", "a $HOME \\n \""),
        ("A=`a '\"`", "a '\""),
        ("A=\"a\\\"b\\\\c\\$d\\e\"", "a\"b\\c$d\\e"),
        ("A=it's", "it's"),
        ("A=a=b=", "a=b="),
        ("A=\"two\nlines\"", "two\nlines"),
        ("A=\"two\\nlines\"", "two\nlines"),
        ("A=b\r", "b"),
        ("# only a comment\n \t\nA=b\n\n", "b"),
        ("\u{feff}A=b", "b"),
        ("X=1\r\nA=b\r\nY=2", "b"),
        ("X=1\rA=b\rY=2", "b"),
        ("A=ünïcode 🔑", "ünïcode 🔑"),
    ] {
        let file = parse(line).unwrap_or_else(|problems| panic!("{line:?}: {problems:?}"));
        assert_eq!(file.get("A").unwrap().text, expected, "{line:?}");
    }
    let file = parse("\n# x\nA='a\nb'\n\nB=2").unwrap();
    let line = |name| file.get(name).unwrap().line;
    assert_eq!((line("A"), line("B")), (3, 6));
}

#[test]
fn env_file_errors_name_the_line_and_no_value() {
    for (text, reported) in [
        ("A=1\nhunter2", "line 2 is not NAME=value"),
        ("A=1\n\nB: hunter2", "line 3 is YAML"),
        ("B: hunter2=", "line 1 is YAML"),
        ("- A=hunter2", "line 1 is YAML"),
        ("{\n  \"A\": \"hunter2\"\n}", "line 2 is JSON"),
        ("{\"A\": \"hunter2=\"}", "line 1 is JSON"),
        ("A='hunter2\nB=1", "line 1, A: the quote ' is not closed"),
        ("A=\"hunter2\\\"", "line 1, A: the quote \" is not closed"),
        (
            "A='hunter2' hunter2",
            "line 1, A: something follows the closing quote",
        ),
        ("A=\"hunter2\",\"hunter2\"", "line 1, A: something follows"),
        ("A=1\nB=1\nA=hunter2", "line 3 sets A, as line 1 does"),
        ("set A=hunter2", "line 1 is not NAME=value"),
        ("A B=hunter2", "line 1 is not NAME=value"),
        ("1A=hunter2", "line 1 is not NAME=value"),
        ("=hunter2", "line 1 is not NAME=value"),
        ("export A", "line 1 is not NAME=value"),
        ("A=1\0", "save it as UTF-8"),
    ] {
        let problems = parse(text)
            .err()
            .unwrap_or_else(|| panic!("{text:?} is read"));
        assert!(
            problems
                .iter()
                .any(|one| one.starts_with(reported) || one.contains(reported)),
            "{text:?}: {problems:?}"
        );
        assert!(!problems.concat().contains("hunter2"), "{problems:?}");
    }
    let problems = EnvFile::parse(b"A=1\nB=caf\xe9\n").err().unwrap();
    assert_eq!(
        problems,
        ["line 2 is not UTF-8 text: save the file as UTF-8"]
    );
    let utf16: Vec<u8> = "A=1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(EnvFile::parse(&utf16).is_err());
}

/// Runs `patchbay serve` in this folder with only these variables. Asserts that it fails, and returns its output.
fn serve(folder: &Path, variables: &[(&OsStr, &OsStr)]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .arg("serve")
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

#[test]
fn env_file_is_read_as_windows_editors_write_it() {
    let folder = new_folder();
    let text = "\u{feff}# made on Windows\r\nPUBLIC_URL=\"https://connect.example.com\"\r\n  \r\nexport PORT=80000\r\nLOG_FORMAT=pretty # for people\r\nAUTH_JWT_SECRET='0123456789$HOME0123456789 # 0123456789'";
    std::fs::write(folder.join(".env"), text).unwrap();
    let output = serve(&folder, &[]);
    let missing: Vec<_> = output
        .lines()
        .filter_map(|line| line.trim().split_once(" is missing"))
        .collect();
    let missing: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        missing,
        [
            "DATABASE_URL",
            "NANGO_SECRET_KEY",
            "NANGO_WEBHOOK_SIGNING_KEY"
        ],
        "{output}"
    );
    assert!(output.contains("PORT is too large"), "{output}");
    assert_eq!(output.lines().count(), 6, "{output}");

    // A comment within quotes is part of the value. The error names the line.
    std::fs::write(folder.join(".env"), "\nPUBLIC_URL='https://${HOST}/'").unwrap();
    let output = serve(&folder, &[]);
    assert!(
        output.contains("PUBLIC_URL (.env, line 2) is or has a placeholder"),
        "{output}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn disguised_and_unreadable_variables_are_named() {
    let folder = new_folder();
    for (name, value, reported) in [
        (
            "\u{feff}PUBLIC_URL".as_bytes(),
            b"https://a.example.com".as_slice(),
            "PUBLIC_URL is set as \"\\u{feff}PUBLIC_URL\"",
        ),
        (
            b"PUBLIC_URL ",
            b"https://a.example.com",
            "PUBLIC_URL is set as \"PUBLIC_URL \"",
        ),
        (
            b"export PUBLIC_URL",
            b"https://a.example.com",
            "PUBLIC_URL is set as \"export PUBLIC_URL\"",
        ),
        (
            b"\"PUBLIC_URL",
            b"https://a.example.com\"",
            "PUBLIC_URL is set as \"\\\"PUBLIC_URL\"",
        ),
        (
            b"AUTH_JWT_SECRET",
            b"caf\xe9hunter2",
            "AUTH_JWT_SECRET is not UTF-8 text",
        ),
    ] {
        let output = serve(
            &folder,
            &[(OsStr::from_bytes(name), OsStr::from_bytes(value))],
        );
        assert!(output.contains(reported), "{output}");
        assert!(!output.contains("hunter2"), "{output}");
    }
    // A folder of this name is Python's virtual environment.
    std::fs::create_dir(folder.join(".env")).unwrap();
    assert!(serve(&folder, &[]).contains("PUBLIC_URL is missing"));
    std::fs::remove_dir_all(folder).unwrap();
}
