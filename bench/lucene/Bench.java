import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.LongPoint;
import org.apache.lucene.document.LongRange;
import org.apache.lucene.document.NumericDocValuesField;
import org.apache.lucene.document.SortedDocValuesField;
import org.apache.lucene.document.SortedSetDocValuesField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.DocValues;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.SortedDocValues;
import org.apache.lucene.index.SortedSetDocValues;
import org.apache.lucene.index.Term;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.FieldDoc;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.MatchAllDocsQuery;
import org.apache.lucene.search.PrefixQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreMode;
import org.apache.lucene.search.SimpleCollector;
import org.apache.lucene.search.Sort;
import org.apache.lucene.search.SortField;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.TopFieldCollector;
import org.apache.lucene.search.TopFieldDocs;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.store.MMapDirectory;
import org.apache.lucene.util.BytesRef;

/**
 * Measures Lucene on the documents and queries of a file each, in one thread.
 *
 * <p>The index is what a search server would make: a term and doc values for each value of a keyword field, points
 * for numbers and ranges, and one segment at the end, which is the best case. Queries are not cached. Facets are
 * counted by ordinal over the documents that match everything, and once more for each field that has a filter,
 * without that filter. CPU time is that of the thread, so it leaves out what garbage collection and the compiler
 * take on others.
 *
 * <p>Standard input has a document a line; see facetbench.AppendLine. Arguments: the file of queries, the folder for
 * the index, and how often each query is run. Standard output has a line for each measurement.
 */
public final class Bench {
  static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();
  static final int TOP = 100;
  static final int WARM_UP = 3;
  static final String[] NUMBERS = {"size", "cells", "donors", "score", "submitted", "updated"};
  static String[] fields;

  public static void main(String[] args) throws Exception {
    List<Question> plan = readPlan(Paths.get(args[0]));
    Path dir = Paths.get(args[1]);
    int rounds = Integer.parseInt(args[2]);
    PrintStream out = new PrintStream(System.out, false, "UTF-8");
    List<String> again = new ArrayList<>();
    long wall = System.nanoTime();
    int docs = 0;
    try (FSDirectory d = new MMapDirectory(dir)) {
      IndexWriterConfig c = new IndexWriterConfig(null);
      c.setRAMBufferSizeMB(256);
      c.setUseCompoundFile(false);
      try (IndexWriter w = new IndexWriter(d, c);
          BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 20)) {
        for (String line; (line = in.readLine()) != null; docs++) {
          if (again.size() < 20_000) again.add(line);
          w.addDocument(document(line));
        }
        w.forceMerge(1);
        w.commit();
      }
      long size = 0;
      for (String f : d.listAll()) size += d.fileLength(f);
      out.printf("build\t%d\t%d\t%d\t%d%n", docs, System.nanoTime() - wall, processCpu(), size);

      try (DirectoryReader r = DirectoryReader.open(d)) {
        IndexSearcher s = new IndexSearcher(r);
        s.setQueryCache(null);
        Asker asker = new Asker(s);
        for (int round = -WARM_UP; round < rounds; round++) {
          for (int i = 0; i < plan.size(); i++) {
            Question q = plan.get(i);
            long cpu0 = THREADS.getCurrentThreadCpuTime(), wall0 = System.nanoTime();
            Answer a = asker.ask(q);
            long wall1 = System.nanoTime(), cpu1 = THREADS.getCurrentThreadCpuTime();
            if (round == -WARM_UP) out.printf("answer\t%d\t%s\t%d%n", i, a.digest(q), a.total);
            if (round >= 0) out.printf("query\t%d\t%d\t%d%n", i, wall1 - wall0, cpu1 - cpu0);
          }
        }
      }

      // A thousand documents written again, durable, and seen by a new reader.
      try (IndexWriter w = new IndexWriter(d, new IndexWriterConfig(null));
          DirectoryReader first = DirectoryReader.open(w)) {
        DirectoryReader r = first;
        for (int from = 0; from + 1000 <= again.size(); from += 1000) {
          long cpu0 = processCpu(), wall0 = System.nanoTime();
          for (String line : again.subList(from, from + 1000)) {
            w.updateDocument(new Term("id", line.substring(0, line.indexOf('\t'))), document(line));
          }
          w.commit();
          DirectoryReader next = DirectoryReader.openIfChanged(r);
          if (next != null && r != first) r.close();
          if (next != null) r = next;
          if (r.numDocs() != docs) throw new IllegalStateException(r.numDocs() + " documents after an update, want " + docs);
          out.printf("update\t%d\t%d\t%d%n", from / 1000, System.nanoTime() - wall0, processCpu() - cpu0);
        }
        if (r != first) r.close();
      }
    }
    out.flush();
  }

  /** CPU time of all threads of the process. */
  static long processCpu() {
    return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
  }

  static Document document(String line) {
    String[] col = line.split("\t", -1);
    Document d = new Document();
    d.add(new StringField("id", col[0], Field.Store.NO));
    d.add(new SortedDocValuesField("id", new BytesRef(col[0])));
    d.add(new SortedDocValuesField("name", new BytesRef(col[1])));
    for (String w : col[2].split(" ")) d.add(new StringField("words", w, Field.Store.NO));
    for (int i = 0; i < NUMBERS.length; i++) {
      if (col[3 + i].isEmpty()) continue;
      long v = Long.parseLong(col[3 + i]);
      d.add(new LongPoint(NUMBERS[i], v));
      d.add(new NumericDocValuesField(NUMBERS[i], v));
    }
    if (!col[9].isEmpty()) {
      d.add(new LongRange("age", new long[] {Long.parseLong(col[9])}, new long[] {Long.parseLong(col[10])}));
    }
    for (int f = 0; f < fields.length; f++) {
      if (col[11 + f].isEmpty()) continue;
      for (String v : col[11 + f].split("\\|")) {
        d.add(new StringField(fields[f], v, Field.Store.NO));
        d.add(new SortedSetDocValuesField(fields[f], new BytesRef(v)));
      }
    }
    return d;
  }

  /** A query of the plan. */
  static final class Question {
    boolean facets;
    final List<Integer> filterFields = new ArrayList<>();
    final List<Query> filters = new ArrayList<>(); // those of fields first
    boolean page, desc;
    String sort;
    Object after;
    String afterId;

    /** What a document has to fulfil, but for the filter at position without. */
    Query query(int without) {
      BooleanQuery.Builder b = new BooleanQuery.Builder();
      int n = 0;
      for (int i = 0; i < filters.size(); i++) {
        if (i == without) continue;
        b.add(filters.get(i), BooleanClause.Occur.FILTER);
        n++;
      }
      return n == 0 ? new MatchAllDocsQuery() : b.build();
    }
  }

  static List<Question> readPlan(Path file) throws IOException {
    List<Question> plan = new ArrayList<>();
    Question q = null;
    for (String line : Files.readAllLines(file)) {
      String[] c = line.split("\t", -1);
      switch (c[0]) {
        case "fields":
          fields = Arrays.copyOfRange(c, 1, c.length);
          break;
        case "query":
          q = new Question();
          q.facets = c[1].equals("facets");
          plan.add(q);
          break;
        case "term":
          q.filterFields.add(Arrays.asList(fields).indexOf(c[1]));
          q.filters.add(new TermQuery(new Term(c[1], c[2])));
          break;
        case "range":
          q.filters.add(range(c[1], c[2], Long.parseLong(c[3]), Long.parseLong(c[4])));
          break;
        case "prefix":
          q.filters.add(new PrefixQuery(new Term("words", c[1])));
          break;
        case "page":
          q.page = true;
          q.sort = c[1];
          q.desc = c[2].equals("desc");
          if (c.length > 3) {
            q.after = q.sort.equals("name") ? (Object) new BytesRef(c[3]) : (Object) Long.valueOf(c[3]);
            q.afterId = c[4];
          }
          break;
        default:
          throw new IOException("a line of the plan begins with " + c[0]);
      }
    }
    return plan;
  }

  static Query range(String field, String relation, long from, long to) {
    if (!field.equals("age")) return LongPoint.newRangeQuery(field, from, to);
    long[] lo = {from}, hi = {to};
    switch (relation) {
      case "within": return LongRange.newWithinQuery(field, lo, hi);
      case "contains": return LongRange.newContainsQuery(field, lo, hi);
      default: return LongRange.newIntersectsQuery(field, lo, hi);
    }
  }

  static final class Answer {
    int total;
    Facet[] facets;
    String[] hits;

    String digest(Question q) throws Exception {
      StringBuilder b = new StringBuilder();
      b.append("total ").append(total).append('\n');
      if (facets != null) {
        for (int f = 0; f < facets.length; f++) {
          Facet x = facets[f];
          b.append("facet ").append(fields[f]).append(' ').append(x.total).append(' ').append(x.missing).append('\n');
          for (int i = 0; i < x.terms.length; i++) b.append(x.counts[i]).append(' ').append(x.terms[i]).append('\n');
        }
      }
      if (hits != null) for (String h : hits) b.append("hit ").append(h).append('\n');
      byte[] sum = MessageDigest.getInstance("SHA-256").digest(b.toString().getBytes(StandardCharsets.UTF_8));
      StringBuilder hex = new StringBuilder();
      for (int i = 0; i < 8; i++) hex.append(String.format("%02x", sum[i]));
      return hex.toString();
    }
  }

  static final class Facet {
    int total, missing;
    String[] terms;
    int[] counts;
  }

  /** Answers questions from an index of one segment. */
  static final class Asker {
    final IndexSearcher searcher;
    final LeafReader leaf;
    final int[] docs; // documents found
    final int[][] counts; // by ordinal, all zero between questions
    int found;

    Asker(IndexSearcher s) throws IOException {
      searcher = s;
      if (s.getIndexReader().leaves().size() != 1) throw new IOException("more than one segment");
      leaf = s.getIndexReader().leaves().get(0).reader();
      docs = new int[leaf.maxDoc()];
      counts = new int[fields.length][];
      for (int f = 0; f < fields.length; f++) counts[f] = new int[(int) DocValues.getSortedSet(leaf, fields[f]).getValueCount()];
    }

    Answer ask(Question q) throws IOException {
      Answer a = new Answer();
      if (q.page) {
        page(q, a);
      } else if (q.facets) {
        facets(q, a);
      } else {
        a.total = searcher.count(q.query(-1));
      }
      return a;
    }

    void facets(Question q, Answer a) throws IOException {
      a.facets = new Facet[fields.length];
      collect(q.query(-1));
      a.total = found;
      for (int f = 0; f < fields.length; f++) if (!q.filterFields.contains(f)) a.facets[f] = count(f);
      for (int i = 0; i < q.filterFields.size(); i++) {
        collect(q.query(i));
        a.facets[q.filterFields.get(i)] = count(q.filterFields.get(i));
      }
    }

    void collect(Query q) throws IOException {
      found = 0;
      searcher.search(q, new SimpleCollector() {
        @Override public void collect(int doc) { docs[found++] = doc; }
        @Override protected void doSetNextReader(LeafReaderContext c) {}
        @Override public ScoreMode scoreMode() { return ScoreMode.COMPLETE_NO_SCORES; }
      });
    }

    /** Counts the values of a field in the documents found. */
    Facet count(int f) throws IOException {
      Facet x = new Facet();
      x.total = found;
      int[] n = counts[f];
      SortedSetDocValues set = DocValues.getSortedSet(leaf, fields[f]);
      SortedDocValues one = DocValues.unwrapSingleton(set);
      for (int i = 0; i < found; i++) {
        if (one != null) {
          if (one.advanceExact(docs[i])) n[one.ordValue()]++; else x.missing++;
        } else if (set.advanceExact(docs[i])) {
          for (long o; (o = set.nextOrd()) != SortedSetDocValues.NO_MORE_ORDS; ) n[(int) o]++;
        } else {
          x.missing++;
        }
      }
      // A heap of the best so far, the worst of them first: the smaller count, or
      // the larger ordinal.
      long[] best = new long[TOP];
      int size = 0;
      for (int o = 0; o < n.length; o++) {
        if (n[o] == 0) continue;
        long k = ((long) n[o] << 32) | (Integer.MAX_VALUE - o);
        n[o] = 0;
        if (size < TOP) {
          best[size++] = k;
          for (int i = size - 1, p; i > 0 && best[p = (i - 1) / 2] > best[i]; i = p) swap(best, i, p);
        } else if (k > best[0]) {
          best[0] = k;
          for (int i = 0, ch; (ch = 2 * i + 1) < size; i = ch) {
            if (ch + 1 < size && best[ch + 1] < best[ch]) ch++;
            if (best[i] <= best[ch]) break;
            swap(best, i, ch);
          }
        }
      }
      Arrays.sort(best, 0, size);
      x.terms = new String[size];
      x.counts = new int[size];
      for (int i = 0; i < size; i++) {
        long k = best[size - 1 - i];
        x.counts[i] = (int) (k >>> 32);
        x.terms[i] = set.lookupOrd(Integer.MAX_VALUE - (int) k).utf8ToString();
      }
      return x;
    }

    static void swap(long[] a, int i, int j) {
      long t = a[i];
      a[i] = a[j];
      a[j] = t;
    }

    void page(Question q, Answer a) throws IOException {
      SortField.Type type = q.sort.equals("name") ? SortField.Type.STRING : SortField.Type.LONG;
      Sort sort = new Sort(new SortField(q.sort, type, q.desc), new SortField("id", SortField.Type.STRING, q.desc));
      FieldDoc after = q.after == null ? null : new FieldDoc(Integer.MAX_VALUE, 0, new Object[] {q.after, new BytesRef(q.afterId)});
      TopFieldCollector c = TopFieldCollector.create(sort, TOP, after, Integer.MAX_VALUE);
      searcher.search(q.query(-1), c);
      TopFieldDocs t = c.topDocs();
      a.total = (int) t.totalHits.value;
      a.hits = new String[t.scoreDocs.length];
      for (int i = 0; i < a.hits.length; i++) a.hits[i] = ((BytesRef) ((FieldDoc) t.scoreDocs[i]).fields[1]).utf8ToString();
    }
  }
}
