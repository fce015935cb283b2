//! The viewer's page: hostile text stays text, cuts are said, equal forests give equal bytes.
#![allow(clippy::disallowed_methods, reason = "a test writes a page to look at")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use sealign_forest::viewer::{ViewerOptions, render};
use sealign_forest::{Options, build};

mod rollouts;
mod shared_data;

use rollouts::rollout;

const HOSTILE: &str = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\u{202e}\u{0}\" onload='x'";

#[test]
fn hostile_text_stays_text() {
    let mut first = rollout("t", "a", "A B", true);
    let mut second = rollout("t", "b", "A C", false);
    for trajectory in [&mut first, &mut second] {
        trajectory.task = HOSTILE.to_owned();
        trajectory.turns[0].free_text = HOSTILE.to_owned();
        trajectory.turns[0].observation.as_mut().unwrap()[0].text = HOSTILE.to_owned();
        trajectory.turns[0].observation.as_mut().unwrap()[0].tool = Some(HOSTILE.to_owned());
    }
    first.id = format!("1{HOSTILE}");
    let trajectories = [first, second];
    let forest = build(&trajectories, &Options::default()).unwrap();
    let page = render(&forest, &trajectories, HOSTILE, ViewerOptions::default());
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own script");
    assert!(!page.contains("<img"));
    assert!(!page.contains('\u{202e}') && !page.contains('\u{0}'));
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn the_page_reaches_for_nothing_outside_itself() {
    let trajectories = [rollout("t", "a", "A B", true), rollout("t", "b", "A C", false)];
    let forest = build(&trajectories, &Options::default()).unwrap();
    let page = render(&forest, &trajectories, "two rollouts", ViewerOptions::default());
    assert!(page.contains("default-src 'none'"));
    for reach in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(reach), "{reach}");
    }
    assert!(
        page.contains("id=\"pair-0\"")
            && page.contains("class=\"chosen\"")
            && page.contains("class=\"rejected\"")
    );
}

#[test]
fn long_texts_are_cut_and_the_page_says_so() {
    let mut long = rollout("t", "a", "A B", true);
    long.turns[0].observation.as_mut().unwrap()[0].text = "é".repeat(5_000);
    let trajectories = [long, rollout("t", "b", "A C", false)];
    let forest = build(&trajectories, &Options::default()).unwrap();
    let page =
        render(&forest, &trajectories, "cut", ViewerOptions { text_chars: 100, ..ViewerOptions::default() });
    assert!(page.contains("cut here: 100 of 5000 characters shown"));
    assert!(!page.contains(&"é".repeat(101)));
    let full =
        render(&forest, &trajectories, "cut", ViewerOptions { total_bytes: 10, ..ViewerOptions::default() });
    assert!(full.contains("left out: the page is full"));
}

#[test]
fn deep_and_wide_trees_neither_overflow_nor_explode() {
    let deep: Vec<String> = (0..3_000).map(|step| format!("S{step}")).collect();
    // Every rollout leaves the common path one step later: a branch inside a branch inside a branch.
    let leaving = (0..300).map(|at| {
        rollout("t", &format!("r{at:03}"), &format!("{} X{at}", deep[..=at].join(" ")), at % 3 == 0)
    });
    let mut trajectories: Vec<_> = leaving.collect();
    trajectories.push(rollout("t", "whole", &deep.join(" "), true));
    let forest = build(&trajectories, &Options::default()).unwrap();
    let page = render(&forest, &trajectories, "deep", ViewerOptions::default());
    assert!(page.contains("deeper branches are left out"));
    assert!(page.len() < 4 << 20, "{}", page.len());
}

#[test]
fn trees_that_do_not_fit_are_left_out_and_those_with_pairs_come_first() {
    let plain = (0..5).flat_map(|task| {
        let name = format!("a-{task}");
        [rollout(&name, &format!("{task}x"), "A B", true), rollout(&name, &format!("{task}y"), "A B C", true)]
    });
    let mut trajectories: Vec<_> = plain.collect();
    trajectories.extend([rollout("z", "zx", "A B", true), rollout("z", "zy", "A C", false)]);
    let forest = build(&trajectories, &Options::default()).unwrap();
    let page = render(&forest, &trajectories, "full", ViewerOptions { nodes: 8, ..ViewerOptions::default() });
    assert!(
        page.contains("data-name=\"z\"")
            && page.contains("data-name=\"a-0\"")
            && !page.contains("data-name=\"a-1\"")
    );
    assert!(page.contains("4 trees were left out"));
    let without = render(
        &forest,
        &trajectories,
        "full",
        ViewerOptions { pairs_per_tree: 0, ..ViewerOptions::default() },
    );
    assert!(without.contains("0 of 1 pairs shown") && !without.contains("id=\"pair-0\""));
}

#[test]
fn the_page_of_real_data_is_small_and_always_the_same() {
    let Some(folder) = shared_data::folder("openhands-swegym-samples") else { return };
    let imported = shared_data::import(&folder);
    let forest = build(&imported.trajectories, &Options::default()).unwrap();
    let page = render(&forest, &imported.trajectories, "OpenHands on SWE-Gym", ViewerOptions::default());
    let again = render(&forest, &imported.trajectories, "OpenHands on SWE-Gym", ViewerOptions::default());
    assert_eq!(page, again);
    assert!(page.len() < 2 << 20, "{}", page.len());
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/forest.html"), &page).unwrap();
}
