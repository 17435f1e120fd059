//! Values by index, in pages that never move.
//!
//! A `Vec` that grows copies all that it has: with many connections that is a long stop, and the
//! memory that it leaves behind is hardly of use for anything else. Here a page more is all that
//! growing takes, and a page in which nothing is left is given back.

/// Values in a page.
const PAGE: usize = 128;

/// A table of values; most of the indexes below its largest one are taken.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Option<Page<T>>>,
    len: usize,
}

#[derive(Debug)]
struct Page<T> {
    values: Box<[Option<T>]>,
    len: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Pages<T> {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (page, place) = split(index);
        self.pages.get(page)?.as_ref()?.values.get(place)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (page, place) = split(index);
        let page = self.pages.get_mut(page)?.as_mut()?;
        page.values.get_mut(place)?.as_mut()
    }

    /// Puts a value in its place, and says what was there.
    pub(crate) fn put(&mut self, index: u32, value: T) -> Option<T> {
        let (page, place) = split(index);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(Page::new);
        let old = page.values[place].replace(value);
        if old.is_none() {
            page.len += 1;
            self.len += 1;
        }
        old
    }

    /// Takes a value out.
    pub(crate) fn take(&mut self, index: u32) -> Option<T> {
        let (number, place) = split(index);
        let page = self.pages.get_mut(number)?.as_mut()?;
        let value = page.values.get_mut(place)?.take()?;
        page.len -= 1;
        self.len -= 1;
        if page.len == 0 {
            self.pages[number] = None;
        }
        Some(value)
    }

    /// All values with their indexes, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(number, page)| {
            let values = page.iter().flat_map(|page| page.values.iter()).enumerate();
            values.filter_map(move |(place, value)| {
                let index = u32::try_from(number * PAGE + place);
                Some((index.expect("indexes have 32 bits"), value.as_ref()?))
            })
        })
    }
}

impl<T> Page<T> {
    fn new() -> Self {
        Self {
            values: std::iter::repeat_with(|| None).take(PAGE).collect(),
            len: 0,
        }
    }
}

/// A page, and a place in it.
fn split(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / PAGE, index % PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_where_they_were_put_until_they_are_taken() {
        let mut pages = Pages::default();
        let indexes = [0, 1, 127, 128, 129, 1000];
        for index in indexes {
            assert_eq!(pages.put(index, index * 10), None);
        }
        assert_eq!(pages.put(128, 5), Some(1280));
        assert_eq!(pages.len(), indexes.len());
        assert_eq!(pages.get(1000), Some(&10_000));
        assert_eq!(pages.get_mut(128), Some(&mut 5));
        let none = [2, 130, 256, 999, 1001, u32::MAX];
        assert!(none.iter().all(|index| pages.get(*index).is_none()));
        let all: Vec<u32> = pages.iter().map(|(index, _)| index).collect();
        assert_eq!(all, indexes);
        assert_eq!(pages.take(127), Some(1270));
        assert_eq!(pages.take(127), None);
        assert_eq!(pages.len(), indexes.len() - 1);
    }

    #[test]
    fn a_page_in_which_nothing_is_left_is_given_back() {
        let mut pages = Pages::default();
        for index in 0..300 {
            pages.put(index, index);
        }
        for index in 128..256 {
            assert_eq!(pages.take(index), Some(index));
        }
        let kept: Vec<bool> = pages.pages.iter().map(Option::is_some).collect();
        assert_eq!(kept, [true, false, true]);
        pages.put(200, 1);
        assert_eq!(pages.get(200), Some(&1));
    }
}
