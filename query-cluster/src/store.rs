//! The files that a worker reads: those below the folders that its owner named, and none is ever written.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

/// Reads below some folders.
#[derive(Debug)]
pub struct ReadOnly {
    files: LocalFileSystem,
    folders: Vec<PathBuf>,
}

impl ReadOnly {
    /// Below these.
    ///
    /// # Errors
    /// What the system said of a folder.
    pub fn new(folders: &[PathBuf]) -> std::io::Result<Self> {
        Ok(Self {
            files: LocalFileSystem::new(),
            folders: folders
                .iter()
                .map(|f| f.canonicalize())
                .collect::<std::io::Result<_>>()?,
        })
    }

    /// Whether a file lies below the folders, after all links.
    pub fn has(&self, path: &std::path::Path) -> bool {
        path.canonicalize()
            .is_ok_and(|path| self.folders.iter().any(|f| path.starts_with(f)))
    }

    fn check(&self, location: &Path) -> Result<()> {
        let path = self.files.path_to_filesystem(location)?;
        if self.has(&path) {
            return Ok(());
        }
        Err(denied(location))
    }
}

fn denied(location: &Path) -> Error {
    Error::PermissionDenied {
        path: location.to_string(),
        source: "this worker only reads, and only below its --data".into(),
    }
}

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("read-only files")
    }
}

#[async_trait]
impl ObjectStore for ReadOnly {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.check(location)?;
        self.files.get_ranges(location, ranges).await
    }

    async fn put_opts(&self, location: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(denied(location))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(denied(location))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        locations.map(|location| Err(denied(&location?))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let error = denied(prefix.unwrap_or(&Path::ROOT));
        stream::once(async move { Err(error) }).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        Err(denied(prefix.unwrap_or(&Path::ROOT)))
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        Err(denied(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::object_store::ObjectStoreExt as _;

    #[tokio::test]
    async fn reads_below_its_folders_and_writes_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (open, shut) = (dir.path().join("open"), dir.path().join("shut"));
        for folder in [&open, &shut] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("a"), "rows").unwrap();
        }
        std::os::unix::fs::symlink(shut.join("a"), open.join("link")).unwrap();
        let store = ReadOnly::new(std::slice::from_ref(&open)).unwrap();
        let at = |path: PathBuf| Path::from_absolute_path(path).unwrap();
        let read = store.get(&at(open.join("a"))).await.unwrap();
        assert_eq!(read.bytes().await.unwrap().as_ref(), b"rows");
        for path in [shut.join("a"), open.join("link"), open.join("none")] {
            let error = store
                .get(&Path::parse(path.to_str().unwrap()).unwrap())
                .await;
            assert!(
                matches!(error, Err(Error::PermissionDenied { .. })),
                "{path:?}"
            );
        }
        let put = store.put(&at(open.clone()).join("b"), "x".into()).await;
        assert!(matches!(put, Err(Error::PermissionDenied { .. })));
        assert!(store.delete(&at(open.join("a"))).await.is_err());
        assert!(store.list(None).next().await.unwrap().is_err());
        assert!(open.join("a").exists() && !open.join("b").exists());
    }
}
