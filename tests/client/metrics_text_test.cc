// SPDX-License-Identifier: MIT
#include "client/cli/metrics_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "client/cli/top_view.h"

namespace lstm::client {
namespace {

using ::testing::HasSubstr;

Metrics Of(const std::string& text) {
  auto metrics = Metrics::Parse(text);
  EXPECT_TRUE(metrics.ok()) << metrics.status();
  return *std::move(metrics);
}

TEST(MetricsTextTest, ReadsWhatPrometheusWrites) {
  const Metrics m = Of(
      "# HELP a_total said\n# TYPE a_total counter\na_total 3\n\nb{x=\"1\",y=\"two words\"} 2.5e3\nb{x=\"2\",y=\"\"} 1 1700000000000\n"
      "c{t=\"a\\\\b\\\"c\\nd,e}f={\",} +Inf\nd{} -1\n");
  EXPECT_EQ(m.Sum("a_total"), 3);
  EXPECT_EQ(m.Sum("b"), 2501);
  EXPECT_EQ(m.Sum("absent"), 0);
  EXPECT_FALSE(m.Has("absent"));
  EXPECT_EQ(m.By("b", "x"), (std::map<std::string, double>{{"1", 2500}, {"2", 1}}));
  EXPECT_EQ(m.By("c", "t").begin()->first, "a\\b\"c\nd,e}f={");
  EXPECT_EQ(m.Sum("d"), -1);
}

TEST(MetricsTextTest, RefusesTheRestAndNamesTheLine) {
  for (const char* bad : {"a", "a ", "a b", "a 1 2 3", "a 1 x", "1a 1", "a{ 1", "a{x} 1", "a{x=1} 1", "a{x=\"1} 1", "a{x=\"1\"y=\"2\"} 1", "a{x=\"1\"", "a{x=\"1\"}1", "a{x=\"\\", "a{x=\"1\",x=\"2\"} 1", "<html>", "a{=\"\"} 1"}) {
    const auto metrics = Metrics::Parse(std::string("good 1\n") + bad);
    ASSERT_FALSE(metrics.ok()) << bad;
    EXPECT_THAT(std::string(metrics.status().message()), HasSubstr("line 2 ")) << bad;
  }
}

TEST(MetricsTextTest, NoBytesHarmIt) {
  std::mt19937 random(3);
  const std::string letters = "ab_:1{}=\"\\, \n.e+#\xff\x00";
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 24, ' ');
    for (char& c : text) c = letters[random() % letters.size()];
    const auto metrics = Metrics::Parse(text);
    if (metrics.ok()) ShowTop("a:1", *metrics, *metrics, 1);
  }
}

// Bounds 1, 2, 4: 10 up to 1, 30 between 1 and 2, 60 above 4.
constexpr char kHistogram[] = "h_bucket{le=\"2\"} 40\nh_bucket{le=\"1\"} 10\nh_bucket{le=\"4\"} 40\nh_bucket{le=\"+Inf\"} 100\nh_count 100\nh_sum 500\n";

TEST(HistogramTest, QuantilesAsPrometheusHasThem) {
  const Histogram h(Of(""), Of(kHistogram), "h");
  EXPECT_EQ(h.count(), 100);
  EXPECT_EQ(h.mean(), 5);
  EXPECT_DOUBLE_EQ(h.Quantile(0.05), 0.5);
  EXPECT_DOUBLE_EQ(h.Quantile(0.1), 1);
  EXPECT_DOUBLE_EQ(h.Quantile(0.25), 1.5);
  EXPECT_DOUBLE_EQ(h.Quantile(0.4), 2);
  EXPECT_DOUBLE_EQ(h.Quantile(0.99), 4) << "the last bound: above it nothing is known";
  const Histogram more(Of(kHistogram), Of("h_bucket{le=\"1\"} 10\nh_bucket{le=\"2\"} 44\nh_bucket{le=\"4\"} 44\nh_bucket{le=\"+Inf\"} 104\nh_count 104\nh_sum 506\n"), "h");
  EXPECT_EQ(more.count(), 4);
  EXPECT_DOUBLE_EQ(more.mean(), 1.5);
  EXPECT_DOUBLE_EQ(more.Quantile(0.5), 1.5) << "of what came in between alone";
  EXPECT_EQ(Histogram(Of(kHistogram), Of(kHistogram), "h").Quantile(0.5), 0);
}

TEST(TopViewTest, RatesAreOfTheTimeBetween) {
  const std::string start = "process_start_time_seconds 5\nlstm_build_info{version=\"1.2\"} 1\nlstm_serving 1\n";
  const Metrics before = Of(start + "lstm_steps_total 100\nlstm_rejects_total{reason=\"busy\"} 1\nlstm_rejects_total{reason=\"invalid\"} 7\n");
  const Metrics now = Of(start + "lstm_steps_total 700\nlstm_rejects_total{reason=\"busy\"} 5\nlstm_rejects_total{reason=\"invalid\"} 7\nlstm_faults_total{kind=\"kernel\"} 2\n");
  const std::string shown = ShowTop("h:1", before, now, 2);
  EXPECT_THAT(shown, HasSubstr("lstm-server 1.2 at h:1  SERVING"));
  EXPECT_THAT(shown, HasSubstr("steps 300/s"));
  EXPECT_THAT(shown, HasSubstr("refused   busy 2.0/s\n"));
  EXPECT_THAT(shown, HasSubstr("faults    kernel 2\n"));
}

TEST(TopViewTest, LabelsCanNotSpeakToTheTerminal) {
  const Metrics m = Of("lstm_build_info{version=\"\x1b[2J\"} 1\nlstm_model_versions{model=\"a\\nb\x9b\"} 1\nlstm_faults_total{kind=\"\x07\"} 1\n");
  for (const char c : ShowTop("\x1b:1", m, m, 1)) EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7f)) << int{c};
}

}  // namespace
}  // namespace lstm::client
