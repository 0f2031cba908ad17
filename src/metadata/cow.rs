//! An ordered map that is cheap to clone: a B-tree whose nodes are shared and copied when written.
//!
//! The published state is read by many while apply changes its own; a clone is one pointer, and a change after it copies the
//! path from the root to one leaf (three or four nodes of [`FANOUT`] entries for a million rows). Iteration is ascending, and
//! the same on each control node.
//!
//! Invariants: all leaves stand at one depth; entries ascend; an inner node's key for a child is not above the child's lowest;
//! no node but an empty root is empty.

use std::sync::Arc;

/// Most entries of a node. A write copies so many entries a level, so it is small.
const FANOUT: usize = 32;

/// An ordered map; cloning shares everything.
#[derive(Debug)]
pub(super) struct CowMap<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<(K, Arc<Node<K, V>>)>),
}

/// A node that was split off to the right, and its lowest key.
type Split<K, V> = Option<(K, Arc<Node<K, V>>)>;

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }
}

/// The child that holds `key` if any does.
fn child_of<K: Ord, V>(children: &[(K, Arc<Node<K, V>>)], key: &K) -> usize {
    children.partition_point(|(lowest, _)| lowest <= key).saturating_sub(1)
}

/// Splits `entries` when there are too many; after an append only the new entry leaves, so that ascending inserts fill nodes.
fn split_off<K: Clone, T>(entries: &mut Vec<(K, T)>, inserted_at: usize) -> Option<(K, Vec<(K, T)>)> {
    if entries.len() <= FANOUT {
        return None;
    }
    let at = if inserted_at + 1 == entries.len() { entries.len() - 1 } else { entries.len() / 2 };
    let right = entries.split_off(at);
    right.first().map(|(lowest, _)| lowest.clone()).map(|lowest| (lowest, right))
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn insert(this: &mut Arc<Self>, key: K, value: V) -> (Option<V>, Split<K, V>) {
        match Arc::make_mut(this) {
            Self::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    entries.insert(at, (key, value));
                    let split = split_off(entries, at);
                    (None, split.map(|(lowest, right)| (lowest, Arc::new(Self::Leaf(right)))))
                }
            },
            Self::Inner(children) => {
                let at = child_of(children, &key);
                if key < children[at].0 {
                    children[at].0 = key.clone();
                }
                let (replaced, split) = Self::insert(&mut children[at].1, key, value);
                let Some(right) = split else { return (replaced, None) };
                children.insert(at + 1, right);
                let split = split_off(children, at + 1);
                (replaced, split.map(|(lowest, right)| (lowest, Arc::new(Self::Inner(right)))))
            }
        }
    }

    /// The key is known to be there.
    fn remove(this: &mut Arc<Self>, key: &K) -> Option<V> {
        match Arc::make_mut(this) {
            Self::Leaf(entries) => {
                let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                Some(entries.remove(at).1)
            }
            Self::Inner(children) => {
                let at = child_of(children, key);
                let removed = Self::remove(&mut children[at].1, key);
                if children[at].1.len() == 0 {
                    children.remove(at);
                } else if children[at].1.len() < FANOUT / 4 {
                    Self::merge(children, at);
                }
                removed
            }
        }
    }

    /// Joins a small child with a neighbour where both fit into half a node and a half.
    fn merge(children: &mut Vec<(K, Arc<Self>)>, at: usize) {
        let left = if at + 1 < children.len() { at } else { at.saturating_sub(1) };
        let right = left + 1;
        if right >= children.len() || children[left].1.len() + children[right].1.len() > FANOUT * 3 / 4 {
            return;
        }
        let (_, right) = children.remove(right);
        match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
            (Self::Leaf(entries), Self::Leaf(more)) => entries.extend(more),
            (Self::Inner(entries), Self::Inner(more)) => entries.extend(more),
            (Self::Leaf(_), Self::Inner(_)) | (Self::Inner(_), Self::Leaf(_)) => {
                unreachable!("neighbours stand at one depth")
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    /// How many entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, key)].1,
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
            }
        }
    }

    /// Whether `key` is there.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`, to be changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains(key) {
            return None;
        }
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    node = &mut children[at].1;
                }
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return Some(&mut entries[at].1);
                }
            }
        }
    }

    /// Sets the value of `key`; gives back what it was.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (replaced, split) = Node::insert(&mut self.root, key, value);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let lowest = match &*left {
                Node::Leaf(entries) => entries.first().map(|(key, _)| key.clone()),
                Node::Inner(children) => children.first().map(|(key, _)| key.clone()),
            };
            let lowest = lowest.unwrap_or_else(|| right.0.clone());
            self.root = Arc::new(Node::Inner(vec![(lowest, left), right]));
        }
        if replaced.is_none() {
            self.len += 1;
        }
        replaced
    }

    /// Takes `key` out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        if !self.contains(key) {
            return None;
        }
        let removed = Node::remove(&mut self.root, key);
        self.len -= 1;
        loop {
            let only = match &*self.root {
                Node::Inner(children) if children.len() == 1 => Arc::clone(&children[0].1),
                Node::Inner(children) if children.is_empty() => Arc::new(Node::Leaf(Vec::new())),
                Node::Inner(_) | Node::Leaf(_) => return removed,
            };
            self.root = only;
        }
    }

    /// The entry of the lowest key.
    pub(super) fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// All entries, ascending.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        Iter { stack: vec![(&*self.root, 0)] }
    }

    /// The entries from `key` on, ascending.
    pub(super) fn from(&self, key: &K) -> Iter<'_, K, V> {
        let mut stack = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    stack.push((node, at + 1));
                    node = &children[at].1;
                }
                Node::Leaf(entries) => {
                    stack.push((node, entries.partition_point(|(k, _)| k < key)));
                    return Iter { stack };
                }
            }
        }
    }
}

impl<K: Clone, V: Clone> CowMap<K, V> {
    /// All entries as they are now, ascending, whatever becomes of the map meanwhile.
    pub(super) fn owned(&self) -> OwnedIter<K, V> {
        OwnedIter { stack: vec![(Arc::clone(&self.root), 0)] }
    }
}

/// Ascending entries of a [`CowMap`], held by the iterator.
pub(super) struct OwnedIter<K, V> {
    /// From the root down: a node, and which of its entries comes next.
    stack: Vec<(Arc<Node<K, V>>, usize)>,
}

impl<K: Clone, V: Clone> Iterator for OwnedIter<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, next) = self.stack.last_mut()?;
            let at = *next;
            *next += 1;
            let child = match &**node {
                Node::Leaf(entries) => match entries.get(at) {
                    Some((key, value)) => return Some((key.clone(), value.clone())),
                    None => None,
                },
                Node::Inner(children) => children.get(at).map(|(_, child)| Arc::clone(child)),
            };
            match child {
                Some(child) => self.stack.push((child, 0)),
                None => drop(self.stack.pop()),
            }
        }
    }
}

/// Ascending entries of a [`CowMap`].
pub(super) struct Iter<'a, K, V> {
    /// From the root down: a node, and which of its entries comes next.
    stack: Vec<(&'a Node<K, V>, usize)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, next) = self.stack.last_mut()?;
            let at = *next;
            *next += 1;
            match node {
                Node::Leaf(entries) => match entries.get(at) {
                    Some((key, value)) => return Some((key, value)),
                    None => self.stack.pop(),
                },
                Node::Inner(children) => match children.get(at) {
                    Some((_, child)) => {
                        self.stack.push((child, 0));
                        None
                    }
                    None => self.stack.pop(),
                },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entries(map: &CowMap<u16, u32>) -> Vec<(u16, u32)> {
        map.iter().map(|(k, v)| (*k, *v)).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_btree_map_and_leaves_clones_alone(
            steps in prop::collection::vec((any::<bool>(), 0_u16..600, any::<u32>()), 1..3_000),
            from in 0_u16..600,
        ) {
            let mut map = CowMap::default();
            let mut model = BTreeMap::new();
            let mut earlier: Option<(CowMap<u16, u32>, BTreeMap<u16, u32>)> = None;
            for (at, (insert, key, value)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                if let Some(found) = map.get_mut(&(key / 2)) {
                    *found = value;
                    model.insert(key / 2, value);
                }
                prop_assert_eq!(map.len(), model.len());
                if at % 500 == 250 {
                    earlier = Some((map.clone(), model.clone()));
                }
            }
            prop_assert!(map.owned().eq(map.iter().map(|(k, v)| (*k, *v))));
            prop_assert_eq!(entries(&map), model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
            let tail: Vec<_> = map.from(&from).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(tail, model.range(from..).map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
            if let Some((map, model)) = earlier {
                prop_assert_eq!(entries(&map), model.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn ascending_inserts_fill_their_leaves_and_removing_all_leaves_nothing() {
        let mut map = CowMap::default();
        for key in 0..10_000_u16 {
            map.insert(key, u32::from(key));
        }
        assert_eq!(map.first(), Some((&0, &0)));
        assert_eq!(map.from(&9_998).count(), 2);
        for key in 0..10_000_u16 {
            assert_eq!(map.remove(&key), Some(u32::from(key)));
        }
        assert_eq!(map.len(), 0);
        assert_eq!(map.iter().count(), 0);
    }
}
