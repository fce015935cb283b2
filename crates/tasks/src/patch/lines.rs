//! Lines of a text, and the shortest edit script between two lists of lines.

/// A text as lines without their line breaks, and whether the last one has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines<'a> {
    pub(super) lines: Vec<&'a str>,
    pub(super) ends_with_newline: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let ends_with_newline = text.ends_with('\n');
        let body = text.strip_suffix('\n').unwrap_or(text);
        let lines = if text.is_empty() { Vec::new() } else { body.split('\n').collect() };
        Self { lines, ends_with_newline }
    }

    /// Whether line `index` lacks a line break.
    pub(super) fn lacks_newline(&self, index: usize) -> bool {
        index + 1 == self.lines.len() && !self.ends_with_newline
    }

    /// Lines as they compare: a last line without a line break differs from the same one with it.
    pub(super) fn tokens(&self) -> Vec<(&'a str, bool)> {
        self.lines.iter().enumerate().map(|(index, line)| (*line, self.lacks_newline(index))).collect()
    }
}

/// One step of an edit script, with the index into the old or new list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Keep(usize, usize),
    Delete(usize),
    Insert(usize),
}

/// Differences that the shortest script is sought for; its memory grows with the square. Beyond it the whole middle is
/// replaced, which is a right script too, only longer.
const DIFFERENCES_MAX: usize = 2_000;

/// An edit script from `old` to `new`: the shortest one up to [`DIFFERENCES_MAX`] differences (Myers 1986).
pub(super) fn edit_script<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Edit> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (old.get(head..).unwrap_or(&[]), new.get(head..).unwrap_or(&[]));
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let old_middle = old_rest.get(..old_rest.len() - tail).unwrap_or(&[]);
    let new_middle = new_rest.get(..new_rest.len() - tail).unwrap_or(&[]);

    let mut script: Vec<Edit> = (0..head).map(|index| Edit::Keep(index, index)).collect();
    script.extend(shortest(old_middle, new_middle).into_iter().map(|edit| match edit {
        Edit::Keep(a, b) => Edit::Keep(a + head, b + head),
        Edit::Delete(a) => Edit::Delete(a + head),
        Edit::Insert(b) => Edit::Insert(b + head),
    }));
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    script.extend((0..tail).map(|index| Edit::Keep(old_end + index, new_end + index)));
    script
}

fn shortest<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Edit> {
    let replace = || {
        let deletes = (0..old.len()).map(Edit::Delete);
        deletes.chain((0..new.len()).map(Edit::Insert)).collect()
    };
    if old.is_empty() || new.is_empty() {
        return replace();
    }
    match furthest_reaches(old, new) {
        Some(history) => walk_back(&history, old.len(), new.len()),
        None => replace(),
    }
}

/// How far each diagonal reaches, for every number of differences up to the one that suffices. Diagonal `k` (old minus
/// new position) of a round with `d` differences stands at index `k + d`.
fn furthest_reaches<T: PartialEq>(old: &[T], new: &[T]) -> Option<Vec<Vec<usize>>> {
    let mut history: Vec<Vec<usize>> = Vec::new();
    for differences in 0..=(old.len() + new.len()).min(DIFFERENCES_MAX) {
        let mut reach = vec![0; 2 * differences + 1];
        for slot in (0..=2 * differences).step_by(2) {
            let mut x = match history.last() {
                None => 0,
                Some(before) => step_into(before, slot, differences),
            };
            // Diagonals outside the grid stay where they are.
            let Some(mut y) = (x + differences).checked_sub(slot) else { continue };
            while x < old.len() && y < new.len() && old.get(x) == new.get(y) {
                x += 1;
                y += 1;
            }
            if let Some(cell) = reach.get_mut(slot) {
                *cell = x;
            }
            if x >= old.len() && y >= new.len() {
                history.push(reach);
                return Some(history);
            }
        }
        history.push(reach);
    }
    None
}

/// Where a diagonal starts in a round: one to the right of its left neighbour, or below its right one.
fn step_into(before: &[usize], slot: usize, differences: usize) -> usize {
    if takes_insert(before, slot, differences) {
        before.get(slot).copied().unwrap_or(0)
    } else {
        slot.checked_sub(2).and_then(|left| before.get(left)).map_or(0, |x| x + 1)
    }
}

/// In the round before, index `slot` is diagonal `k + 1` and index `slot - 2` is `k - 1`.
fn takes_insert(before: &[usize], slot: usize, differences: usize) -> bool {
    let left = slot.checked_sub(2).and_then(|left| before.get(left));
    let right = before.get(slot);
    slot == 0 || (slot != 2 * differences && left < right)
}

fn walk_back(history: &[Vec<usize>], old_len: usize, new_len: usize) -> Vec<Edit> {
    let mut script = Vec::new();
    let (mut x, mut y) = (old_len, new_len);
    for differences in (1..history.len()).rev() {
        let Some(before) = history.get(differences - 1) else { continue };
        let slot = x + differences - y.min(x + differences);
        let insert = takes_insert(before, slot, differences);
        let start = step_into(before, slot, differences);
        let start_y = (start + differences).saturating_sub(slot);
        while x > start && y > start_y {
            x -= 1;
            y -= 1;
            script.push(Edit::Keep(x, y));
        }
        if insert {
            y = y.saturating_sub(1);
            script.push(Edit::Insert(y));
        } else {
            x = x.saturating_sub(1);
            script.push(Edit::Delete(x));
        }
    }
    while x > 0 && y > 0 {
        x -= 1;
        y -= 1;
        script.push(Edit::Keep(x, y));
    }
    script.reverse();
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str) -> usize {
        let (a, b): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
        let script = edit_script(&a, &b);
        let mut rebuilt = Vec::new();
        let mut consumed = 0;
        for edit in &script {
            match edit {
                Edit::Keep(x, y) => {
                    assert_eq!((*x, a[*x]), (consumed, b[*y]));
                    consumed += 1;
                    rebuilt.push(b[*y]);
                }
                Edit::Delete(x) => {
                    assert_eq!(*x, consumed);
                    consumed += 1;
                }
                Edit::Insert(y) => rebuilt.push(b[*y]),
            }
        }
        assert_eq!(consumed, a.len());
        assert_eq!(rebuilt, b, "{old} -> {new}");
        script.iter().filter(|edit| !matches!(edit, Edit::Keep(..))).count()
    }

    #[test]
    fn scripts_rebuild_the_new_text_and_are_as_short_as_possible() {
        assert_eq!(check("abcabba", "cbabac"), 5);
        assert_eq!(check("", "ab"), 2);
        assert_eq!(check("ab", ""), 2);
        assert_eq!(check("same", "same"), 0);
        assert_eq!(check("axbxc", "abc"), 2);
        assert_eq!(check("abc", "axbxc"), 2);
    }

    #[test]
    fn every_pair_of_short_texts_has_the_length_that_a_table_of_common_subsequences_gives() {
        let texts: Vec<String> = (0..81_u32)
            .map(|code| (0..4).map(|digit| ["a", "b", "c"][(code / 3_u32.pow(digit) % 3) as usize]).collect())
            .collect();
        for old in &texts {
            for new in texts.iter().step_by(3) {
                let (a, b): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
                let mut table = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
                for i in 0..a.len() {
                    for j in 0..b.len() {
                        table[i + 1][j + 1] =
                            if a[i] == b[j] { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
                    }
                }
                assert_eq!(check(old, new), a.len() + b.len() - 2 * table[a.len()][b.len()]);
            }
        }
    }
}
