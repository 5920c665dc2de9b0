"""Train a RecBole model on hard negatives: python run_recbole_hnlm.py --model=LightGCN --dataset=ml-100k"""

from recbole_hnlm.cli import run_main

if __name__ == "__main__":
    run_main()
