//! Entries by label.

use smallvec::SmallVec;

use super::Cache;
use crate::cache::entry::{Reason, Removals, Slot};
use crate::cache::labels::{Label, LabelId, Marks};

impl<K, V, A> Cache<K, V, A> {
    /// The id of a label, for [`New::labels`](crate::cache::New::labels) of the next `insert` or `replace`; see [`LabelId`] for how long it is
    /// valid.
    pub fn label(&mut self, label: Label) -> LabelId {
        self.labels.intern(label)
    }

    /// The id of a label that entries carry.
    pub fn find_label(&self, label: &Label) -> Option<LabelId> {
        self.labels.find(label)
    }

    /// Entries that carry a label, expired ones included.
    pub fn members(&self, id: LabelId) -> &[Slot] {
        self.labels.members(id)
    }

    /// The label behind an id.
    pub fn label_of(&self, id: LabelId) -> Option<&Label> {
        self.labels.get(id)
    }

    pub fn labels_of(&self, slot: Slot) -> impl Iterator<Item = LabelId> {
        self.extra(slot.0).map_or(&[][..], |extra| &extra.marks).iter().map(|mark| mark.label)
    }

    /// Takes out all entries that carry a label.
    pub fn remove_labelled(&mut self, id: LabelId, reason: Reason, out: &mut Removals<K, V, A>) {
        let count = self.labels.members(id).len();
        out.reserve(count);
        for _ in 0..count {
            let Some(&slot) = self.labels.members(id).last() else {
                break;
            };
            out.extend(self.take(slot.0, reason));
        }
    }

    /// [`Label::Head`]s whose text ends with `ending`. O(log n + found).
    pub fn heads_ending_with(&self, ending: &str) -> Vec<LabelId> {
        self.labels.heads_ending_with(ending)
    }

    /// Number of tags that entries carry.
    pub fn tag_count(&self) -> usize {
        self.labels.tag_count()
    }

    /// Tags that entries carry, in no particular order.
    pub fn tags(&self) -> impl Iterator<Item = (&str, LabelId)> {
        self.labels.tags()
    }

    /// Makes `ids` the labels of a slot that has an [`Extra`].
    pub(super) fn relabel(&mut self, slot: u32, ids: &[LabelId]) {
        let Some(index) = self.entries[slot].extra.get() else {
            return;
        };
        let old = std::mem::take(&mut self.extras[index].marks);
        let mut ids: SmallVec<[LabelId; 8]> = SmallVec::from_slice(ids);
        ids.sort_unstable();
        ids.dedup();
        let mut marks = Marks::with_capacity(ids.len());
        let mut gone = Marks::new();
        let mut rest = old.into_iter().peekable();
        for id in ids {
            while let Some(mark) = rest.next_if(|mark| mark.label < id) {
                gone.push(mark);
            }
            let mark = match rest.next_if(|mark| mark.label == id) {
                Some(mark) => mark,
                None => self.labels.attach(Slot(slot), id),
            };
            marks.push(mark);
        }
        gone.extend(rest);
        self.extras[index].marks = marks;
        self.unlabel(gone);
    }

    pub(super) fn unlabel(&mut self, marks: Marks) {
        for mark in marks {
            self.labels.detach(mark, |other, label| {
                let index = self.entries.get(other.0)?.extra.get()?;
                let marks = &mut self.extras.get_mut(index)?.marks;
                let place = marks.binary_search_by_key(&label, |mark| mark.label).ok()?;
                marks.get_mut(place)
            });
        }
    }
}
