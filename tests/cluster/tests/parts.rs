//! The parts of a bed that need no cluster: run numbers, networks and their sweep, images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use sealign_cluster_tests::place::Place;
use sealign_cluster_tests::process::run;
use sealign_cluster_tests::{images, keys::Keys, network, pack::Image, sweep};

/// Whether this machine allows the test; says it when not.
fn may(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|program| !Path::new(program).exists()).collect();
    let may = rustix::process::geteuid().is_root() && missing.is_empty();
    if !may {
        println!("skipped: not root, or missing: {missing:?}");
    }
    may
}

#[test]
fn two_beds_never_meet_and_leave_nothing() {
    if !may(&["/usr/sbin/ip", "/usr/bin/busybox", "/usr/bin/openssl", "/usr/bin/nsenter"]) {
        return;
    }
    let places = [Place::claim().unwrap(), Place::claim().unwrap()];
    assert_ne!(places[0].number(), places[1].number());
    for place in &places {
        sweep::sweep(place).unwrap();
        fs::create_dir_all(place.folder()).unwrap();
        network::make(place, 2).unwrap();
    }
    for place in &places {
        let near = format!("{}/32", place.node_address(2));
        let route = run(Command::new("ip").args(["route", "get", near.trim_end_matches("/32")])).unwrap();
        assert!(route.contains(&place.host_link()), "{route}");
        let mut ping = network::inside(place, "n1", "busybox");
        run(ping.args(["ping", "-c", "1", "-W", "5", &place.node_address(2)])).unwrap();
        Keys::make(place, 2).unwrap();
        let verify = ["verify", "-CAfile"];
        let pki = place.folder().join("pki");
        run(Command::new("openssl").args(verify).arg(pki.join("ca.crt")).arg(pki.join("n2.crt"))).unwrap();
    }
    for place in &places {
        sweep::sweep(place).unwrap();
        let left = run(Command::new("ip").args(["netns", "list"])).unwrap();
        assert!(!left.contains(&place.namespace("")), "{left}");
        assert!(!place.folder().exists());
    }
}

#[test]
fn equal_contents_are_equal_images_and_packed_once() {
    let folder = std::env::temp_dir().join(format!("sealign-pack-{}", std::process::id()));
    let packed = |image: &Image| image.pack(&folder).unwrap();
    let image = images::pause();
    let Ok(image) = image else {
        println!("skipped: no static busybox");
        return;
    };
    let (first, second) = (packed(&image), packed(&image));
    assert_eq!(first, second);
    let before = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    assert_eq!(fs::read(packed(&image)).unwrap(), before, "no time, owner or order of a run is in it");
    let listed = run(Command::new("tar").arg("tf").arg(&first)).unwrap();
    assert!(listed.contains("index.json") && listed.contains("blobs/sha256/"), "{listed}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_task_image_runs_python_and_the_shell_tools() {
    if !may(&["/usr/bin/dpkg", "/usr/bin/python3", "/usr/sbin/chroot"]) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("sealign-task-{}", std::process::id()));
    let archive = images::task().unwrap().pack(&folder).unwrap();
    let root = folder.join("root");
    fs::create_dir_all(&root).unwrap();
    let unpack = "tar xf \"$1\" -C \"$2\" && cd \"$2\" && for blob in blobs/sha256/*; do tar tf $blob >/dev/null 2>&1 && tar xf $blob; done; true";
    run(Command::new("sh").args(["-c", unpack, "sh"]).arg(&archive).arg(&root)).unwrap();
    let script = "echo a b | sed s/a/c/ | grep c; python3 -c 'import json, hashlib, sqlite3, ssl; print(1 + 1)'; ls /repo";
    let said = run(Command::new("chroot").arg(&root).args(["/bin/bash", "-c", script])).unwrap();
    assert_eq!(said, "c b\n2\n");
    assert!(Path::new(&root).join("repo").is_dir());
    fs::remove_dir_all(&folder).unwrap();
}
