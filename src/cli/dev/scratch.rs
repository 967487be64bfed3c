//! A directory for servers that leave nothing behind.

use crate::error::{Error, Kind, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory of our own, gone when this is, also where the work breaks off.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        // Not taken over where it is there already: it would be somebody else's. Postgres, unprivileged, passes through.
        let made = std::fs::DirBuilder::new().mode(0o711).create(&path);
        made.map_err(|error| Error::because(Kind::Conflict, format!("making {}", path.display()), error))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
