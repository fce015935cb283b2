//! Functions stay within 70 lines, files within 500 before their tests, controller files within 150.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::Visit;

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;
const CONTROLLER_LINES_MAX: usize = 150;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources() -> Vec<PathBuf> {
    let skipped = ["target", ".git", ".torch", ".sealign"];
    walkdir::WalkDir::new(root())
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !skipped.iter().any(|name| entry.file_name() == *name))
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

#[derive(Default)]
struct Functions {
    too_long: Vec<(String, usize, usize)>,
}

impl Functions {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            self.too_long.push((signature.ident.to_string(), signature.span().start().line, lines));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}

#[test]
fn functions_fit_a_screen() {
    let mut report = String::new();
    for path in sources() {
        let file = syn::parse_file(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut functions = Functions::default();
        functions.visit_file(&file);
        for (name, line, lines) in functions.too_long {
            writeln!(report, "{}:{line}: {name} has {lines} lines", path.display()).unwrap();
        }
    }
    assert!(report.is_empty(), "functions over {FUNCTION_LINES_MAX} lines:\n{report}");
}

#[test]
fn files_stay_readable() {
    let mut report = String::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let is_controller = path.components().any(|part| part.as_os_str() == "controllers");
        let limit = if is_controller { CONTROLLER_LINES_MAX } else { FILE_LINES_MAX };
        if lines > limit {
            writeln!(report, "{}: {lines} lines, at most {limit}", path.display()).unwrap();
        }
    }
    assert!(report.is_empty(), "files over their limit:\n{report}");
}
