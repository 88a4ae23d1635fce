//! What a GPU's runtime compiles and tunes, kept for the next start.
//!
//! CubeCL keeps what it chose by trial; what it compiled (on CUDA and ROCm) it keeps only when it is asked to, which happens here. Both
//! are in one database, in the folder `kernels` of Kiln's cache. A `cubecl.toml` above the current folder can name another:
//!
//! ```toml
//! [environment]
//! path = "global"    # "local", or { directory = "/a/folder" }
//! ```
//!
//! A kernel is kept for one build of one program and one architecture, by the build id that the linker writes into it: another build
//! never gets it. A program without a build id keeps nothing.

use std::path::Path;

use cubecl_runtime::config::cache::CacheConfig;
use cubecl_runtime::config::{CubeClRuntimeConfig, RuntimeConfig};
use kiln_text::DataEnv;

/// The variable that turns it off, with `0`.
const VARIABLE: &str = "KILN_KEEP_KERNELS";

/// Asks for it, before the first device is opened.
pub(super) fn keep_kernels() {
    let config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    let wanted = std::env::var_os(VARIABLE).is_none_or(|value| value != "0");
    // Where the program said something before, or has a device already, that stays.
    let folder = DataEnv::from_environment().cache_dir.join("kernels");
    let keep = wanted && buildid::build_id().is_some();
    CubeClRuntimeConfig::try_set(kept(config, keep, &folder));
}

fn kept(mut config: CubeClRuntimeConfig, keep: bool, folder: &Path) -> CubeClRuntimeConfig {
    config.compilation.cache = keep;
    config.autotune.disable_cache |= !keep;
    // CubeCL's own choice is a folder of whatever Cargo project the program was started in.
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Directory(folder.into());
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_unless_asked_for() {
        let (config, folder) = (CubeClRuntimeConfig::default(), Path::new("/k"));
        let on = kept(config.clone(), true, folder);
        assert!(on.compilation.cache && !on.autotune.disable_cache);
        assert_eq!(on.environment.path.root(), folder);
        let off = kept(config, false, folder);
        assert!(!off.compilation.cache && off.autotune.disable_cache);
    }

    #[test]
    fn a_folder_of_the_users_stays() {
        let mut config = CubeClRuntimeConfig::default();
        config.environment.path = CacheConfig::Directory("/mine".into());
        let found = kept(config, true, Path::new("/k"));
        assert_eq!(found.environment.path.root(), Path::new("/mine"));
    }

    /// Tests are linked as the program is.
    #[test]
    fn programs_have_a_build_id() {
        assert!(buildid::build_id().is_some_and(|id| !id.is_empty()));
    }
}
