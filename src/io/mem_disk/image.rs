//! The bytes of one file: pages shared between images until one of them is written.
//!
//! Sharing makes the durable image, a fork of a disk and a file of zeros cost almost nothing.

use std::sync::Arc;

/// The unit of sharing; also what a real kernel writes back, see `MemDisk`'s failed sync.
pub const PAGE_BYTES: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `None`, and every page behind the last one, is zeros. Nothing but zeros lies beyond `len`.
    pages: Vec<Option<Arc<[u8; PAGE_BYTES]>>>,
    len: u64,
}

impl Image {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset` on, up to the end of the file; tells how much.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let available = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < available {
            let (page, at) = split(offset + done as u64);
            let n = (PAGE_BYTES - at).min(available - done);
            match self.pages.get(page) {
                Some(Some(bytes)) => buf[done..done + n].copy_from_slice(&bytes[at..at + n]),
                _ => buf[done..done + n].fill(0),
            }
            done += n;
        }
        available
    }

    /// Writes, growing the file if it must.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, at) = split(offset + done as u64);
            let n = (PAGE_BYTES - at).min(bytes.len() - done);
            let part = &bytes[done..done + n];
            done += n;
            if page >= self.pages.len() {
                if part.iter().all(|b| *b == 0) {
                    continue;
                }
                self.pages.resize(page + 1, None);
            }
            let slot = &mut self.pages[page];
            if slot.is_none() && part.iter().all(|b| *b == 0) {
                continue;
            }
            let bytes = slot.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(bytes)[at..at + n].copy_from_slice(part);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        let (page, at) = split(len);
        self.pages.truncate(if at == 0 { page } else { page + 1 });
        if let Some(Some(bytes)) = self.pages.get_mut(page)
            && bytes[at..].iter().any(|b| *b != 0)
        {
            Arc::make_mut(bytes)[at..].fill(0);
        }
        self.len = len;
    }

    /// Takes over the pages that hold `offset..offset + len` from another image. The length stays;
    /// the caller ends with `set_len`.
    pub fn share_pages(&mut self, from: &Image, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (first, last) = (split(offset).0, split(offset + len - 1).0);
        for page in first..=last {
            match from.pages.get(page) {
                Some(shared @ Some(_)) => {
                    if page >= self.pages.len() {
                        self.pages.resize(page + 1, None);
                    }
                    self.pages[page].clone_from(shared);
                }
                _ if page < self.pages.len() => self.pages[page] = None,
                _ => {}
            }
        }
    }
}

fn split(offset: u64) -> (usize, usize) {
    ((offset / PAGE_BYTES as u64) as usize, (offset % PAGE_BYTES as u64) as usize)
}
