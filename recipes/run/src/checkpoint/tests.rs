use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::manifest::VERSION;
use super::*;

fn store() -> (tempfile::TempDir, CheckpointStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().join("checkpoints"));
    (folder, store)
}

fn save(store: &CheckpointStore, step: u64) -> Checkpoint {
    let mut writer = store.begin(step).unwrap();
    writer
        .write("model.safetensors", |out| {
            out.write_all(&vec![step as u8; 1000])
        })
        .unwrap();
    writer
        .write_at("state.json", |path| fs::write(path, b"{}"))
        .unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_was_saved_is_loaded() {
    let (_folder, store) = store();
    assert_eq!(store.list().unwrap(), [0; 0]);
    let saved = save(&store, 1000);
    assert!(saved.path.ends_with("checkpoints/step-00001000"));
    assert_eq!(store.load(1000).unwrap(), saved);
    assert_eq!((saved.bytes(), saved.manifest.version), (1002, VERSION));
    assert_eq!(
        fs::read(saved.file("model.safetensors").unwrap()).unwrap(),
        vec![232; 1000]
    );
    assert!(
        saved
            .file("optimizer")
            .unwrap_err()
            .to_string()
            .contains("it has: [\"model.safetensors\", \"state.json\"]")
    );
    assert!(
        store
            .load(7)
            .unwrap_err()
            .to_string()
            .contains("there are: [1000]")
    );
}

#[test]
fn saving_a_step_again_replaces_it() {
    let (_folder, store) = store();
    save(&store, 5);
    let mut writer = store.begin(5).unwrap();
    writer.write("other", |out| out.write_all(b"x")).unwrap();
    writer.finish().unwrap();
    assert_eq!(store.load(5).unwrap().manifest.files.len(), 1);
    assert_eq!(store.names().unwrap(), ["step-00000005"]);
}

#[test]
fn damage_is_told_and_passed_over() {
    let (_folder, store) = store();
    (1..=5).for_each(|step| drop(save(&store, step)));
    let file = |step| store.folder(step).join("model.safetensors");
    fs::write(file(5), [5; 999]).unwrap();
    let mut flipped = fs::read(file(4)).unwrap();
    flipped[500] ^= 1;
    fs::write(file(4), flipped).unwrap();
    fs::remove_file(file(3)).unwrap();
    fs::write(store.folder(2).join(MANIFEST), "{").unwrap();

    let recovered = store.latest_valid().unwrap();
    assert_eq!(recovered.checkpoint.unwrap().step, 1);
    let texts: Vec<String> = recovered
        .damaged
        .iter()
        .map(|(_, error)| error.to_string())
        .collect();
    assert!(
        texts[0].contains("model.safetensors has 999 bytes where its manifest says 1000"),
        "{texts:?}"
    );
    assert!(
        matches!(&recovered.damaged[1].1, CheckpointError::WrongHash { expected, found, .. } if expected != found)
    );
    assert!(
        texts[1].contains("has sha256") && texts[1].contains("step-00000004"),
        "{texts:?}"
    );
    assert!(
        texts[2].contains("is missing from its checkpoint"),
        "{texts:?}"
    );
    assert!(texts[3].contains("manifest.json is damaged"), "{texts:?}");

    store.set_best(5, 0.5).unwrap();
    assert_eq!(store.recover().unwrap().checkpoint.unwrap().step, 1);
    assert_eq!(store.best().unwrap(), None);
    assert_eq!(store.list().unwrap(), [1]);
    assert!(store.path().join("damaged-step-00000005").is_dir());
}

#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let (_folder, store) = store();
    save(&store, 1);
    let mut writer = store.begin(2).unwrap();
    let error = writer
        .write("model.safetensors", |out| {
            out.write_all(&[0; 3000])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
    assert!(error.to_string().contains("step-00000002"), "{error}");
    assert!(
        error.to_string().contains("3000 bytes asked for so far"),
        "{error}"
    );
    drop(writer);
    assert_eq!(store.latest_valid().unwrap().checkpoint.unwrap().step, 1);
    assert_eq!(store.names().unwrap(), ["step-00000001"]);
}

#[test]
fn pruning_spares_the_best_the_newest_and_the_kept() {
    let (_folder, store) = store();
    (1..=6).for_each(|step| drop(save(&store, step)));
    store.set_best(2, 1.5).unwrap();
    assert_eq!(
        store.best().unwrap(),
        Some(Best {
            step: 2,
            value: 1.5
        })
    );
    assert_eq!(store.prune(0, &[4]).unwrap(), [1, 3, 5]);
    assert_eq!(store.list().unwrap(), [2, 4, 6]);
    assert!(store.set_best(3, 1.0).is_err());
    assert!(
        store
            .set_best(4, f64::NAN)
            .unwrap_err()
            .to_string()
            .contains("must be finite")
    );
}

#[test]
fn cleaning_removes_leftovers_and_puts_the_replaced_back() {
    let (_folder, store) = store();
    save(&store, 1);
    save(&store, 2);
    fs::rename(store.folder(2), store.path().join(replaced_name(2))).unwrap();
    fs::create_dir(store.path().join(".tmp-step-00000003-99")).unwrap();
    fs::write(store.path().join(".tmp-best.json-99-0"), "{").unwrap();
    store.clean().unwrap();
    assert_eq!(store.list().unwrap(), [1, 2]);
    assert_eq!(store.load(2).unwrap().step, 2);
    assert_eq!(store.names().unwrap().len(), 2);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let (_folder, store) = store();
    let mut writer = store.begin(1).unwrap();
    for name in ["", "../x", "a/b", "manifest.json", ".hidden"] {
        assert!(
            matches!(
                writer.write(name, |_| Ok(())),
                Err(CheckpointError::BadName { .. })
            ),
            "{name}"
        );
    }
    writer.write("a", |_| Ok(())).unwrap();
    assert!(
        writer
            .write("a", |_| Ok(()))
            .unwrap_err()
            .to_string()
            .contains("written already")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn pruning_keeps_exactly_what_it_must(
        steps in prop::collection::btree_set(0u64..20, 1..6),
        keep in prop::collection::vec(0u64..20, 0..3),
        keep_last in 0usize..4,
        best in any::<prop::sample::Index>(),
    ) {
        let (_folder, store) = store();
        for step in &steps {
            store.begin(*step).unwrap().finish().unwrap();
        }
        let all: Vec<u64> = steps.iter().copied().collect();
        let best = *best.get(&all);
        store.set_best(best, 0.5).unwrap();
        store.prune(keep_last, &keep).unwrap();
        let newest = all.iter().rev().take(keep_last.max(1)).copied();
        let must: BTreeSet<u64> =
            newest.chain(keep.into_iter().filter(|step| steps.contains(step))).chain([best]).collect();
        prop_assert_eq!(store.list().unwrap(), must.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_flipped_byte_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (_folder, store) = store();
        let path = save(&store, 3).file("model.safetensors").unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at.index(1000)] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        let noticed = matches!(store.load(3), Err(CheckpointError::WrongHash { .. }));
        prop_assert!(noticed);
    }
}
