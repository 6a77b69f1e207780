//! The paths of a configuration: made independent of the working directory, and found again after a run was moved.

use super::Config;
use crate::data::is_template;
use std::path::{Component, Path, PathBuf};

/// Calls `change` with every path and pattern that a configuration reads or caches, and puts in its place what that gives.
fn map(config: &mut Config, change: &mut dyn FnMut(&str) -> Option<String>) {
    let data = &mut config.data;
    let sources = data.source.iter_mut().flat_map(|source| source.files.iter_mut());
    let template = data.chat_template.iter_mut().filter(|template| !is_template(template));
    for text in data.train.iter_mut().chain(data.validation.iter_mut()).chain(sources).chain(template) {
        if let Some(new) = change(text) {
            *text = new;
        }
    }
    for file in config.tokenizer.file.iter_mut().chain(config.adapter.base.iter_mut()) {
        if let Some(new) = file.to_str().and_then(&mut *change) {
            *file = new.into();
        }
    }
}

/// Whether a name, or a pattern, stands for something.
fn exists(name: &str) -> bool {
    Path::new(name).exists() || glob::glob(name).is_ok_and(|mut found| found.next().is_some())
}

impl Config {
    /// Makes every path absolute, so that the configuration means the same from any working directory. A working directory
    /// whose name is not UTF-8 cannot be written down; then they stay as they are.
    pub fn make_absolute(&mut self) {
        let whole = |path: &Path| std::path::absolute(path).ok()?.to_str().map(ToOwned::to_owned);
        map(self, &mut |name| match Path::new(name).exists() || !name.contains(['*', '?', '[']) {
            true => whole(Path::new(name)),
            false if Path::new(name).is_absolute() => None,
            // Only the pattern's own characters are wildcards.
            false => Some(format!("{}/{name}", glob::Pattern::escape(&whole(Path::new("."))?))),
        });
        for path in [&mut self.run.dir, &mut self.data.cache] {
            if let Some(whole) = whole(path) {
                *path = whole.into();
            }
        }
    }

    /// Finds what a moved run reads: what is not where its configuration says is looked for at the same place relative to the
    /// run's folder, which was `recorded` and is `folder` now.
    pub fn follow(&mut self, recorded: &Path, folder: &Path) {
        let moved = |name: &Path| Some(tidy(&folder.join(relative(recorded, name)?)));
        map(self, &mut |name| {
            let there = moved(Path::new(name)).filter(|_| !exists(name))?;
            there.to_str().filter(|there| exists(there)).map(Into::into)
        });
        // A cache is made anew where it is missing, but not where nothing is left of the run's old surroundings.
        let cache = &self.data.cache;
        let gone =
            !cache.exists() && !cache.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent.exists());
        if let Some(there) = moved(cache).filter(|_| gone) {
            self.data.cache = there;
        }
    }

    /// Looks up in the `record` of a run what is not found from this working directory.
    pub fn look_up(&mut self, mut record: Config) {
        let mut known = Vec::new();
        map(&mut record, &mut |name| {
            known.push(name.to_owned());
            None
        });
        map(self, &mut |name| {
            let ends = |known: &&String| Path::new(known).ends_with(Path::new(name)) && exists(known);
            known.iter().find(ends).filter(|_| !exists(name)).cloned()
        });
    }
}

/// The way from the folder `from` to `to`, both absolute or both relative to one folder; nothing if it is not known.
fn relative(from: &Path, to: &Path) -> Option<PathBuf> {
    let plain = |path: &Path| path.components().all(|part| !matches!(part, Component::ParentDir));
    if from.is_absolute() != to.is_absolute() || !plain(from) || !plain(to) {
        return None;
    }
    let part = |part: &Component<'_>| *part != Component::CurDir;
    let (from, to): (Vec<_>, Vec<_>) =
        (from.components().filter(part).collect(), to.components().filter(part).collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| Component::ParentDir);
    Some(up.chain(to[common..].iter().copied()).collect())
}

/// The path without the steps up that lead back out of folders it names; the system's own answer where it has one.
fn tidy(path: &Path) -> PathBuf {
    let Ok(whole) = std::path::absolute(path) else { return path.into() };
    let mut out = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(train: &str, dir: &str) -> Config {
        let mut config = Config::default();
        config.data.train = vec![train.into()];
        config.run.dir = dir.into();
        config
    }

    #[test]
    fn the_way_between_two_places_is_known_if_both_are() {
        let way = |from, to| relative(Path::new(from), Path::new(to)).map(|way| way.to_string_lossy().into_owned());
        assert_eq!(way("/a/runs/x", "/a/texts/b.txt").as_deref(), Some("../../texts/b.txt"));
        assert_eq!(way("runs/x", "./texts/b.txt").as_deref(), Some("../../texts/b.txt"));
        assert_eq!(way("/a/runs/x", "texts/b.txt"), None);
        assert_eq!(way("../x", "b.txt"), None);
    }

    #[test]
    fn texts_are_found_beside_a_moved_run() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).to_string_lossy().into_owned();
        fs::create_dir_all(at("new/runs/x")).unwrap();
        fs::write(at("new/b.txt"), "text").unwrap();
        for name in ["b.txt", "b.t*"] {
            let mut moved = config(&at(&format!("old/{name}")), "");
            moved.follow(Path::new(&at("old/runs/x")), Path::new(&at("new/runs/x")));
            assert_eq!(moved.data.train, [at(&format!("new/{name}"))]);
        }
        let mut still_there = config(&at("new/b.txt"), "");
        still_there.follow(Path::new(&at("new/runs/y")), Path::new(&at("elsewhere/y")));
        assert_eq!(still_there.data.train, [at("new/b.txt")]);
    }

    #[test]
    fn absolute_paths_keep_wildcards_and_templates() {
        let mut given = config("texts/*.txt", "runs/x");
        given.data.chat_template = Some("{{ messages }}".into());
        given.make_absolute();
        assert!(given.run.dir.is_absolute() && given.data.cache.is_absolute());
        assert!(given.data.train[0].starts_with('/') && given.data.train[0].ends_with("/texts/*.txt"));
        assert_eq!(given.data.chat_template.as_deref(), Some("{{ messages }}"));
        let once = given.clone();
        given.make_absolute();
        assert_eq!(given, once);
    }

    #[test]
    fn the_record_of_a_run_knows_where_its_texts_are() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("b.txt"), "text").unwrap();
        let whole = place.path().join("b.txt").to_string_lossy().into_owned();
        let mut elsewhere = config("b.txt", "");
        elsewhere.look_up(config(&whole, ""));
        assert_eq!(elsewhere.data.train, [whole]);
    }
}
